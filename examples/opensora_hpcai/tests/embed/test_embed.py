from functools import partial

import numpy as np
import pytest

from mindone import runtime
from mindone.data.errors import BadSample
from mindone.data.write import write_video
from opensora import networks as loading
from opensora.cli import enter
from opensora.data.cache import read_latent, read_text, write_text
from opensora.embed import decode, videos
from opensora.text.encoder import TextEmbeddings, TextEncoder


class Array(np.ndarray):
    """An array with a tensor's way out."""

    def asnumpy(self) -> np.ndarray:
        return np.asarray(self)


class Averages:
    """An autoencoder of 4 frames a chunk: latents are averages over 8x8 pixels and pairs of frames."""

    chunk_frames, latent_channels, spatial_compression, time_compression = 4, 3, 8, 2

    def __init__(self):
        self.calls = []

    def latent_size(self, size):
        return -(-size[0] // 2), size[1] // 8, size[2] // 8

    def frames_of(self, latent_frames):
        return 2 * latent_frames

    def posterior(self, video):
        self.calls.append(video.shape)
        batch, channels, frames, height, width = video.shape
        video = np.pad(video, ((0, 0), (0, 0), (0, frames % 2), (0, 0), (0, 0)), mode="edge")
        blocks = video.reshape(batch, channels, -1, 2, height // 8, 8, width // 8, 8)
        mean = blocks.mean(axis=(3, 5, 7)).view(Array)
        return mean, (mean * 0 + 0.5).view(Array)

    def normalize(self, latents):
        return latents * 2

    def decode(self, latents, num_frames):
        video = np.asarray(latents).repeat(2, 2).repeat(8, 3).repeat(8, 4) / 2
        return video[:, :, :num_frames].view(Array)


class Lengths:
    """A text encoder whose embeddings are the lengths of the texts."""

    def __init__(self):
        self.batches = []

    def encode(self, texts):
        self.batches.append(list(texts))
        emb = np.array([[[len(text)] * 8] * 4 for text in texts], np.float32)
        return TextEmbeddings(emb, np.ones((len(texts), 4), np.uint8), np.ones((len(texts), 4), np.int32))


class Networks:
    """Stands in for the networks of the family, everything else is its own."""

    def __init__(self, monkeypatch):
        self.autoencoder, self.encoder = Averages(), Lengths()
        monkeypatch.setattr(loading, "autoencoder_skeleton", lambda *_, **__: self.autoencoder)
        monkeypatch.setattr(loading, "load_autoencoder", lambda *_, **__: self.autoencoder)
        monkeypatch.setattr(TextEncoder, "from_folder", lambda *_, **__: self.encoder)
        monkeypatch.setattr(decode, "_normalised", lambda autoencoder, values: autoencoder.normalize(values))


@pytest.fixture
def networks(monkeypatch):
    monkeypatch.setattr(runtime, "setup", lambda *_, **__: runtime.current())
    return Networks(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three clips of 10, 10 and 7 frames, a damaged one, and a table of them."""
    folder = tmp_path_factory.mktemp("videos")
    for number, length in enumerate((10, 10, 7)):
        frames = np.full((length, 32, 32, 3), 40 * (number + 1), np.uint8)
        write_video(folder / f"sub/clip{number}.mp4", frames, fps=12)
    (folder / "sub/clip3.mp4").write_bytes(b"damaged" * 99)
    rows = ["video,caption", "sub/clip0,A red circle", "sub/clip1,a square", "sub/clip2,a square", "sub/clip3,x"]
    (folder / "table.csv").write_text("\n".join(rows))
    return folder


def text_flags(folder, output, *more) -> list[str]:
    return [f"--t5_model_name_or_path={folder}", f"--output_path={output}", "--batch_size=2", *more]


def video_flags(folder, output, *more) -> list[str]:
    return [
        f"--csv_path={folder}/table.csv",
        f"--video_folder={folder}",
        f"--vae_checkpoint={folder}",
        f"--output_path={output}",
        "--image_size=16",
        "--num_parallel_workers=0",
        "--max_bad_fraction=0.5",
        *more,
    ]


# --- text ------------------------------------------------------------------------------------------------------------


def test_a_tables_captions_are_cached_beside_its_videos(networks, folder, tmp_path):
    counts = enter("embed-text", text_flags(folder, tmp_path, f"--csv_path={folder}/table.csv"))
    assert (counts.written, counts.skipped, counts.bad) == (4, 0, 0)
    entry = read_text(tmp_path / "sub/clip0.npz")
    assert entry.text_emb.shape == (4, 8) and entry.text_emb[0, 0] == len("a red circle")
    assert networks.encoder.batches == [["a red circle", "a square"], ["x"]], "equal captions are encoded once"


def test_prompts_are_cached_in_their_order_with_a_batch_dimension(networks, folder, tmp_path):
    enter("embed-text", text_flags(folder, tmp_path, "--captions", "A red circle!", "two"))
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["000-A-red-circle.npz", "001-two.npz"]
    with np.load(tmp_path / "001-two.npz") as stored:
        assert stored["text_emb"].shape == (1, 4, 8) and stored["tokens"].shape == stored["mask"].shape == (1, 4)


def test_a_stopped_text_run_makes_only_what_is_missing(networks, folder, tmp_path):
    flags = text_flags(folder, tmp_path, f"--csv_path={folder}/table.csv")
    enter("embed-text", flags)
    (tmp_path / "sub/clip1.npz").write_bytes(b"cut")
    networks.encoder.batches.clear()
    counts = enter("embed-text", flags)
    assert (counts.written, counts.skipped) == (1, 3) and networks.encoder.batches == [["a square"]]
    assert enter("embed-text", [*flags, "--allow_overwrite=True"]).written == 4


def test_ranks_share_the_captions(networks, folder, tmp_path, monkeypatch):
    for rank in (0, 1):
        monkeypatch.setattr(runtime, "_current", runtime.Runtime(rank=rank, world_size=2))
        counts = enter("embed-text", text_flags(folder, tmp_path, f"--csv_path={folder}/table.csv"))
        assert counts.written == 2
    assert len(list(tmp_path.rglob("*.npz"))) == 4


def test_wrong_text_inputs_end_with_code_2(networks, folder, tmp_path, capsys):
    (tmp_path / "other.csv").write_text("video,text\na,b\n")
    for flags, message in (
        ([f"--csv_path={tmp_path}/other.csv"], 'has no column "caption"; it has: video, text'),
        ([f"--csv_path={folder}/table.csv", "--captions", "x"], "either a table or prompts"),
        (["--captions", "x", "--t5_model_name_or_path=/none"], "t5_model_name_or_path"),
    ):
        with pytest.raises(SystemExit) as caught:
            enter("embed-text", text_flags(folder, tmp_path / "out", *flags))
        assert caught.value.code == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ") and message in error


# --- video -----------------------------------------------------------------------------------------------------------


def test_videos_are_cached_with_what_was_encoded(networks, folder, tmp_path):
    counts = enter("embed-video", video_flags(folder, tmp_path, "--batch_size=4"))
    assert (counts.written, counts.skipped, counts.bad) == (3, 0, 1)
    entry = read_latent(tmp_path / "sub/clip1.npz")
    assert entry.mean.shape == entry.std.shape == (5, 3, 2, 2) and (entry.std == 0.5).all()
    assert entry.mean == pytest.approx(80 / 127.5 - 1, abs=0.03)
    assert (entry.fps, entry.ori_size, entry.num_frames, entry.size) == (12, (32, 32), 10, (16, 16))
    assert "clip3.mp4 is not a readable video" in (tmp_path / "bad_samples.csv").read_text()
    assert networks.autoencoder.calls[0] == (2, 3, 10, 16, 16), "videos of equal length go through together"


def test_stride_and_length_choose_the_frames(networks, folder, tmp_path):
    counts = enter("embed-video", video_flags(folder, tmp_path, "--frame_stride=2", "--num_frames=4"))
    entry = read_latent(tmp_path / "sub/clip2.npz")
    assert counts.written == 3 and (entry.num_frames, entry.fps, len(entry.mean)) == (4, 6, 2)
    counts = enter("embed-video", video_flags(folder, tmp_path / "long", "--num_frames=9", "--max_bad_fraction=1"))
    assert (counts.written, counts.bad) == (2, 2)


def test_a_stopped_video_run_makes_only_what_is_missing(networks, folder, tmp_path):
    enter("embed-video", video_flags(folder, tmp_path))
    (tmp_path / "sub/clip0.npz").unlink()
    networks.autoencoder.calls.clear()
    counts = enter("embed-video", video_flags(folder, tmp_path, "--max_bad_fraction=1"))
    assert (counts.written, counts.skipped, counts.bad) == (1, 2, 1) and len(networks.autoencoder.calls) == 1


def test_memory_that_runs_out_is_one_line_that_says_what_to_change(networks, folder, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(networks.autoencoder, "posterior", fail, raising=False)
    monkeypatch.setattr(networks.encoder, "encode", fail, raising=False)
    for name, flags, message in (
        ("embed-video", video_flags(folder, tmp_path / "a"), "encoding 1 videos of 10 frames at once; use a smaller"),
        (
            "embed-text",
            text_flags(folder, tmp_path / "b", "--captions", "a"),
            "encoding 1 texts at once; use a smaller",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            enter(name, flags)
        assert ended.value.code == 2
        assert f"there is not enough memory for {message}" in capsys.readouterr().err


def test_the_mean_alone_can_be_saved(networks, folder, tmp_path):
    enter("embed-video", video_flags(folder, tmp_path, "--save_distribution=False"))
    with np.load(tmp_path / "sub/clip0.npz") as stored:
        assert "latent_std" not in stored.files


def test_long_videos_are_encoded_in_runs_of_whole_chunks():
    frames = np.random.default_rng(0).integers(0, 256, (1, 70, 8, 8, 3)).astype(np.uint8)
    autoencoder = Averages()
    mean, std = videos.encode_frames(autoencoder, frames)
    assert [shape[2] for shape in autoencoder.calls] == [64, 6] and mean.shape == std.shape == (1, 3, 35, 1, 1)


def test_too_many_damaged_videos_stop_the_run(networks, folder, tmp_path, capsys):
    (folder / "damaged.csv").write_text("video,caption\nsub/clip3,x\n")
    with pytest.raises(SystemExit) as caught:
        enter("embed-video", video_flags(folder, tmp_path, f"--csv_path={folder}/damaged.csv"))
    assert caught.value.code == 2
    assert "1 of 1 samples cannot be used" in capsys.readouterr().err
    assert (tmp_path / "bad_samples.csv").is_file()


def test_a_size_the_autoencoder_cannot_encode_is_refused(networks, folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        enter("embed-video", video_flags(folder, tmp_path, "--image_size=20"))
    assert "20 is not divisible by 8" in capsys.readouterr().err


# --- made from the same ----------------------------------------------------------------------------------------------


def error_of(command, flags, capsys) -> str:
    """The line that a command ends with when it leaves with code 2."""
    with pytest.raises(SystemExit) as caught:
        command(flags)
    assert caught.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def encoder_folder(tmp_path):
    folder = tmp_path / "t5"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def table_of(path, *captions: str) -> str:
    lines = [f'clip{number}.mp4,"{caption}"' for number, caption in enumerate(captions)]
    path.write_text("\n".join(["video,caption", *lines]))
    return f"--csv_path={path}"


def test_a_changed_caption_is_an_error_or_encoded_again(networks, encoder_folder, tmp_path, capsys):
    flags = text_flags(encoder_folder, tmp_path / "out", table_of(tmp_path / "t.csv", "a cat", "a dog"))
    enter("embed-text", flags)
    settings = (tmp_path / "out/embed_text.yaml").read_text()
    table_of(tmp_path / "t.csv", "a cat", "a BIRD")
    error = error_of(partial(enter, "embed-text"), [*flags, "--batch_size=1"], capsys)
    assert "1 of 2 cache files were made from something else" in error
    assert "clip1.npz: encoded was 'a dog' and is 'a bird' now" in error and "--stale renew" in error
    assert (tmp_path / "out/embed_text.yaml").read_text() == settings, "the settings stay those of the files"
    assert read_text(tmp_path / "out/clip1.npz").text == "a dog"
    counts = enter("embed-text", [*flags, "--stale=renew"])
    assert (counts.written, counts.skipped) == (1, 1)
    entry = read_text(tmp_path / "out/clip1.npz")
    assert (entry.text, entry.encoded, entry.text_emb[0, 0]) == ("a BIRD", "a bird", len("a bird"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("--model_max_length=200", "model_max_length was '300' and is '200' now"),
        ("--t5_dtype=bf16", "dtype was 'fp32' and is 'bf16' now"),
        ("--caption_cleaning=none", "encoded was 'a cat' and is 'A cat' now"),
        ("weights", "weights was"),
    ],
)
def test_other_settings_and_weights_are_noticed(networks, encoder_folder, tmp_path, capsys, change, what):
    flags = text_flags(encoder_folder, tmp_path / "out", "--captions", "A cat")
    enter("embed-text", flags)
    if change == "weights":
        (encoder_folder / "model.safetensors").write_bytes(b"others!")
    assert what in error_of(partial(enter, "embed-text"), flags if change == "weights" else [*flags, change], capsys)
    assert enter("embed-text", [*flags, "--batch_size=7", "--allow_overwrite=True"]).written == 1


def test_files_that_do_not_say_what_they_are_made_from_are_taken(networks, folder, tmp_path, caplog):
    for name in ("clip0", "clip1"):
        arrays = {"text_emb": np.ones((4, 8)), "mask": np.ones(4), "tokens": np.ones(4)}
        write_text(tmp_path / f"out/{name}.npz", arrays)
    with caplog.at_level("INFO"):
        counts = enter("embed-text", text_flags(folder, tmp_path / "out", table_of(tmp_path / "t.csv", "a", "b")))
    assert (counts.written, counts.skipped) == (0, 2)
    assert caplog.text.count("2 files do not say what they were made from") == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("--frame_stride=2", "frame_stride was '1' and is '2' now"),
        ("--image_size=24", "height was '16' and is '24' now"),
        ("--num_frames=4", "num_frames was 'None' and is '4' now"),
        ("--vae_dtype=bf16", "dtype was 'fp32' and is 'bf16' now"),
        ("video", "bytes was"),
    ],
)
def test_latents_of_another_size_stride_or_video_are_noticed(networks, folder, tmp_path, capsys, change, what):
    videos_folder = tmp_path / "videos"
    for number in (0, 1):
        write_video(videos_folder / f"sub/clip{number}.mp4", np.zeros((8, 32, 32, 3), np.uint8), fps=12)
    (videos_folder / "table.csv").write_text("video\nsub/clip0\nsub/clip1\n")
    flags = [*video_flags(folder, tmp_path / "out"), f"--csv_path={videos_folder}/table.csv"]
    flags.append(f"--video_folder={videos_folder}")
    assert enter("embed-video", flags).written == 2 and enter("embed-video", flags).skipped == 2
    if change == "video":
        write_video(videos_folder / "sub/clip1.mp4", np.full((8, 32, 32, 3), 99, np.uint8), fps=12, crf=0)
    changed = flags if change == "video" else [*flags, change]
    assert what in error_of(partial(enter, "embed-video"), changed, capsys)
    assert enter("embed-video", [*changed, "--stale=renew"]).written == (1 if change == "video" else 2)


def test_latents_stay_good_when_their_videos_are_gone(networks, folder, tmp_path):
    write_video(tmp_path / "v/a.mp4", np.zeros((4, 32, 32, 3), np.uint8), fps=12)
    (tmp_path / "v/t.csv").write_text("video\na\n")
    flags = [*video_flags(folder, tmp_path / "out"), f"--csv_path={tmp_path}/v/t.csv", f"--video_folder={tmp_path}/v"]
    enter("embed-video", flags)
    (tmp_path / "v/a.mp4").unlink()
    assert enter("embed-video", flags).skipped == 1


# --- one file per row ------------------------------------------------------------------------------------------------


def test_rows_that_would_share_a_cache_file_are_refused_before_anything_is_encoded(networks, folder, tmp_path, capsys):
    (tmp_path / "t.csv").write_text("video,caption\nx/clip.mp4,one\ny.mp4,two\nx/clip.mov,three\n")
    for command, flags in ((partial(enter, "embed-text"), text_flags), (partial(enter, "embed-video"), video_flags)):
        error = error_of(command, flags(folder, tmp_path / "out", f"--csv_path={tmp_path}/t.csv"), capsys)
        assert "lines 2 and 4: x/clip.mp4 and x/clip.mov would share the cache file x/clip.npz" in error
    assert not list(tmp_path.rglob("*.npz")) and not networks.encoder.batches and not networks.autoencoder.calls


def test_a_video_with_two_captions_is_refused(networks, folder, tmp_path, capsys):
    (tmp_path / "t.csv").write_text("video,caption\na.mp4,one\na,one\n")
    assert enter("embed-text", text_flags(folder, tmp_path / "out", f"--csv_path={tmp_path}/t.csv")).written == 1
    (tmp_path / "t.csv").write_text("video,caption\na.mp4,one\na,two\n")
    error = error_of(
        partial(enter, "embed-text"), text_flags(folder, tmp_path / "out", f"--csv_path={tmp_path}/t.csv"), capsys
    )
    assert "lines 2 and 3: a.mp4 has two captions" in error


def test_rows_without_a_caption_can_be_left_out(networks, folder, tmp_path):
    flags = text_flags(folder, tmp_path / "out", table_of(tmp_path / "t.csv", "a cat", "", "NaN"))
    assert enter("embed-text", [*flags, "--filter_data=True"]).written == 1
    assert enter("embed-text", flags).written == 2


def test_files_of_another_list_of_prompts_are_reported(networks, folder, tmp_path, caplog):
    enter("embed-text", text_flags(folder, tmp_path, "--captions", "a cat", "a dog"))
    enter("embed-text", text_flags(folder, tmp_path, "--captions", "a cat", "a dog"))
    assert "other prompts" not in caplog.text
    enter("embed-text", text_flags(folder, tmp_path, "--captions", "a bird"))
    assert "has 2 files of other prompts, such as 000-a-cat.npz" in caplog.text


def test_prompts_of_another_encoding_end_in_one_line(networks, folder, tmp_path, capsys):
    error = error_of(
        partial(enter, "embed-text"), text_flags(folder, tmp_path, "--captions", "a red circle caf\udce9"), capsys
    )
    assert error.startswith("error: the argument 'a red circle caf\\udce9' is not UTF-8 text")


def test_a_disk_that_will_be_full_is_foretold(networks, folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10, "total": 0}))
    enter("embed-text", text_flags(folder, tmp_path / "out", table_of(tmp_path / "t.csv", "a cat", "a dog")))
    assert "the other files will take about 0.0 MB, but 0.0 MB are free" in caplog.text


# --- and back --------------------------------------------------------------------------------------------------------


def test_cached_latents_become_videos_again(networks, folder, tmp_path):
    from mindone.data.video import probe, read_video

    enter("embed-video", video_flags(folder, tmp_path / "latents"))
    flags = [f"--vae_checkpoint={folder}", f"--latent_folder={tmp_path}/latents", f"--output_path={tmp_path}/videos"]
    made = enter("decode", [*flags, "--fps=6"])
    assert made == [tmp_path / f"videos/sub/clip{number}.mp4" for number in range(3)]
    info = probe(made[2])
    assert (info.num_frames, info.height, info.width, info.fps) == (7, 16, 16, 6)
    assert read_video(made[0]).mean() == pytest.approx(40, abs=3)
    assert enter("decode", flags)[0] == tmp_path / "videos/sub/clip0-2.mp4", "nothing is overwritten"


def test_sampled_latents_tell_their_frames_in_the_record_beside_them(networks, folder, tmp_path):
    latents = tmp_path / "latents"
    latents.mkdir()
    for stem in ("a", "b"):
        np.save(latents / f"{stem}.npy", np.zeros((1, 3, 4, 2, 2), np.float32))
    (latents / "a.json").write_text('{"num_frames": 7}')
    (latents / "c.npy").write_bytes(b"damaged")
    np.save(latents / "d.npy", np.zeros((3, 3)))
    flags = [f"--vae_checkpoint={folder}", f"--latent_folder={latents}", f"--output_path={tmp_path}/videos"]
    made = enter("decode", [*flags, "--save_format=png"])
    assert [len(list(video.iterdir())) for video in made] == [7, 8]


def test_folders_without_latents_are_refused(networks, folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        enter("decode", [f"--vae_checkpoint={folder}", f"--latent_folder={tmp_path}", f"--output_path={tmp_path}/v"])
    assert "has no .npy or .npz files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((1, 3, 2, 2, 2), np.nan, np.float32), "not finite"),
        (np.zeros((2, 3, 2, 2, 2), np.float32), r"of one video .* shape is \(2, 3, 2, 2, 2\)"),
        (np.zeros((3, 2, 2), np.float32), r"shape is \(3, 2, 2\)"),
        (np.zeros((1, 3, 2, 2, 2), np.int64), "numbers of int64; latents are floats"),
        (np.zeros((1, 3, 2, 2, 2), np.complex64), "holds no numbers but '<c8'"),
    ],
)
def test_latents_that_cannot_be_decoded_say_why(tmp_path, values, reason):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(BadSample, match=reason):
        decode.read_latents(tmp_path / "a.npy")
