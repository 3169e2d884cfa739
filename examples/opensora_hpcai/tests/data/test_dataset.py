import subprocess
import sys
from fractions import Fraction
from functools import partial

import av
import numpy as np
import pytest

from mindone.data.errors import BadSample
from mindone.data.loader import Loader
from mindone.data.plan import FixedPlan
from mindone.data.table import read_video_table
from mindone.data.transforms import ResizeCrop
from mindone.data.video import probe
from mindone.data.write import write_png, write_video
from mindone.errors import UserError
from opensora.conditions.visual import drawn_ends
from opensora.data.cache import LatentEntry, cache_path, write_latent, write_text
from opensora.data.dataset import LatentTextDataset, Memory, VideoTextDataset, WholeVideoDataset


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four clips of 12 frames that get brighter, one short clip, one damaged file; text for all."""
    folder = tmp_path_factory.mktemp("videos")
    lines = ["video,caption"]
    for number in range(6):
        frames = np.zeros((3 if number == 4 else 12, 32, 48, 3), np.uint8)
        frames += (np.arange(len(frames), dtype=np.uint8) * 20)[:, None, None, None]
        if number == 5:
            (folder / "clip5.mp4").write_bytes(b"damaged" * 100)
        else:
            write_video(folder / f"clip{number}.mp4", frames, fps=12)
        text = np.full((4, 8), number, np.float32)
        arrays = {"text_emb": text, "mask": np.ones(4), "tokens": np.arange(4)}
        write_text(cache_path(folder / "text", f"clip{number}.mp4"), arrays)
        lines.append(f"clip{number},caption {number}")
    (folder / "video_caption.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def rows(folder):
    return read_video_table(folder / "video_caption.csv")


def frame_numbers(frames: np.ndarray) -> list[int]:
    return np.round(frames.mean(axis=(1, 2, 3)) / 20).astype(int).tolist()


def test_a_clip_has_the_asked_frames_size_and_conditions(rows, folder):
    item = VideoTextDataset(rows, 4, (16, 24), frame_stride=2, text_folder=folder / "text").get(1, rng())
    assert item["frames"].shape == (4, 16, 24, 3) and item["frames"].dtype == np.uint8
    start = frame_numbers(item["frames"])[0]
    assert frame_numbers(item["frames"]) == [start, start + 2, start + 4, start + 6]
    assert (item["fps"], item["height"], item["width"], item["num_frames"]) == (6, 16, 24, 4)
    assert item["caption"] == "caption 1" and item["index"] == 1
    assert (item["text_emb"] == 1).all() and item["text_mask"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_a_planned_batch_may_ask_for_another_size_and_length(rows, cache_bytes):
    dataset = VideoTextDataset(rows, 4, (16, 24), cache_bytes=cache_bytes)
    for size in ((2, 24, 16), (4, 16, 24), (2, 24, 16)):
        item = dataset.get(1, rng(), size)
        assert item["frames"].shape == (*size, 3)
        assert (item["num_frames"], item["height"], item["width"]) == size
        assert (item["frames"] == VideoTextDataset(rows, size[0], size[1:]).get(1, rng())["frames"]).all()


@pytest.mark.parametrize("backend", ["pyav", "cv2"])
@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_memory_and_backend_change_nothing(rows, backend, cache_bytes):
    plain = VideoTextDataset(rows, 5, (16, 16), flip=True)
    other = VideoTextDataset(rows, 5, (16, 16), flip=True, backend=backend, cache_bytes=cache_bytes)
    for seed in range(6):
        assert (plain.get(2, rng(seed))["frames"] == other.get(2, rng(seed))["frames"]).all()


@pytest.fixture
def slowing(tmp_path):
    """A table of one video: 8 frames at 24 a second, then 8 at 6."""
    with av.open(str(tmp_path / "slowing.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 10 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number + 3 * max(0, number - 8), Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "table.csv").write_text("video,caption\nslowing.mp4,x\n")
    return read_video_table(tmp_path / "table.csv")


@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_the_rate_of_a_clip_is_that_of_its_own_frames(slowing, cache_bytes):
    dataset = VideoTextDataset(slowing, 4, (16, 16), frame_stride=2, cache_bytes=cache_bytes)
    rates = {0: 12, 2: 12, 8: 3, 9: 3}
    seen = set()
    for seed in range(60):
        item = dataset.get(0, rng(seed))
        start = round(item["frames"][0].mean() / 10)
        if start in rates:
            assert item["fps"] == pytest.approx(rates[start])
            seen.add(start)
    assert seen == set(rates)


def test_the_rate_of_a_whole_video_is_that_of_the_frames_taken(slowing):
    rates = [
        WholeVideoDataset(slowing, ResizeCrop(16, 16), num_frames, stride).get(0, rng())["fps"]
        for num_frames, stride in ((8, 1), (4, 2), (None, 1), (1, 1))
    ]
    mean = probe(slowing[0].file).fps
    assert rates == pytest.approx([24, 12, 15 / (36 / 24), mean])


def test_starts_are_random_unless_switched_off(rows):
    dataset = VideoTextDataset(rows, 3, (16, 16))
    assert len({frame_numbers(dataset.get(0, rng(seed))["frames"])[0] for seed in range(40)}) > 5
    fixed = VideoTextDataset(rows, 3, (16, 16), random_start=False)
    assert frame_numbers(fixed.get(0, rng())["frames"]) == [0, 1, 2]


def test_short_videos_are_bad_or_stretched(rows):
    with pytest.raises(BadSample, match="clip4.mp4 is too short: 3 frames"):
        VideoTextDataset(rows, 6, (16, 16)).get(4, rng())
    stretched = VideoTextDataset(rows, 6, (16, 16), stretch=True).get(4, rng())["frames"]
    assert frame_numbers(stretched) == [0, 0, 1, 1, 2, 2]


def test_a_truncated_video_gives_the_frames_it_has(folder, rows, tmp_path):
    noise = rng().integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    content = write_video(tmp_path / "clip0.mp4", noise, fps=8).read_bytes()
    (tmp_path / "clip0.mp4").write_bytes(content[: len(content) // 2])
    (tmp_path / "table.csv").write_text("video,caption\nclip0,x\n")
    dataset = VideoTextDataset(read_video_table(tmp_path / "table.csv"), 3, (16, 16))
    for seed in range(8):
        assert dataset.get(0, rng(seed))["frames"].shape == (3, 16, 16, 3)


def test_a_picture_is_a_clip_of_one_frame(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((1, 20, 20, 3), np.uint8))
    (tmp_path / "table.csv").write_text("video,caption\na.png,x\n")
    item = VideoTextDataset(read_video_table(tmp_path / "table.csv"), 1, (16, 16)).get(0, rng())
    assert item["frames"].shape == (1, 16, 16, 3) and item["fps"] == 120


def test_the_loader_replaces_damaged_files_on_every_rank_alike(rows):
    dataset = VideoTextDataset(rows, 3, (16, 16))
    plan = FixedPlan(len(dataset), 2, seed=4)
    whole = [list(batch.indices) for batch in Loader(dataset, plan, max_bad_fraction=0.5).epoch(0)]
    with Loader(dataset, plan, max_bad_fraction=0.5, num_workers=2) as loader:
        assert [list(batch.indices) for batch in loader.epoch(0)] == whole
        assert [record.index for record in loader.bad_samples] == [5]
    assert 5 not in sum(whole, []) and len(sum(whole, [])) == 6


# --- latents ---------------------------------------------------------------------------------------------------------


def write_latents(path, frames: int, **known):
    mean = np.arange(frames, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 2, 3), np.float32)
    write_latent(path, LatentEntry(mean, mean / 10, 8.0, (240, 426), **known))


def test_latents_come_channels_first_with_what_was_encoded(rows, folder, tmp_path):
    write_latents(tmp_path / "clip0.npz", 5, num_frames=17, size=(16, 24))
    dataset = LatentTextDataset(rows, tmp_path, folder / "text", cache_bytes=10**6)
    for _ in range(2):
        item = dataset.get(0, rng())
        assert item["latent_mean"].shape == item["latent_std"].shape == (4, 5, 2, 3)
        assert item["latent_mean"][0, :, 0, 0].tolist() == [0, 1, 2, 3, 4]
        assert (item["fps"], item["height"], item["width"], item["num_frames"]) == (8, 16, 24, 17)
        assert item["caption"] == "caption 0" and item["text_emb"].shape == (4, 8)
    assert dataset.memory.used == 2 * 5 * 4 * 2 * 3 * 4 + 4 * 8 * 4 + 4


def test_older_latent_files_tell_their_size_by_their_shape(rows, tmp_path):
    write_latents(tmp_path / "clip0.npz", 6)
    item = LatentTextDataset(rows, tmp_path).get(0, rng())
    assert (item["height"], item["width"], item["num_frames"]) == (16, 24, 6)


def test_pieces_of_long_latents_start_at_whole_chunks(rows, tmp_path):
    write_latents(tmp_path / "clip0.npz", 15, num_frames=51)
    dataset = LatentTextDataset(rows, tmp_path, latent_frames=5, latent_align=5)
    starts = {int(dataset.get(0, rng(seed))["latent_mean"][0, 0, 0, 0]) for seed in range(30)}
    assert starts == {0, 5, 10}
    assert dataset.get(0, rng())["num_frames"] == 17
    with pytest.raises(BadSample, match="too short: 15 latent frames, 20 are needed"):
        LatentTextDataset(rows, tmp_path, latent_frames=20).get(0, rng())


def test_what_conditions_give_is_needed_of_the_lengths_that_can_have_it(rows, tmp_path):
    end = np.ones((1, 4, 2, 3), np.float32)
    write_latents(tmp_path / "latent_16x24/clip0.npz", 3, ends={"head_1": (end, end)})
    dataset = LatentTextDataset(rows, tmp_path, latent_frames={9: 3, 1: 1}, ends=partial(drawn_ends, {"i2v_head": 1}))
    assert dataset.get(0, rng(), (9, 16, 24))["head_1_mean"].shape == (4, 1, 2, 3)
    write_latents(tmp_path / "latent_16x24/clip1.npz", 1)
    assert "head_1_mean" not in dataset.get(1, rng(), (1, 16, 24))
    write_latents(tmp_path / "latent_16x24/clip2.npz", 3)
    with pytest.raises(UserError, match="lacks head_1, which condition_config needs"):
        dataset.get(2, rng(), (9, 16, 24))


def test_one_of_several_resolutions_is_drawn(rows, tmp_path):
    write_latents(tmp_path / "latent_16x24/clip0.npz", 3)
    write_latents(tmp_path / "latent_32x48/clip0.npz", 4)
    write_latents(tmp_path / "latent_32x48/clip1.npz", 4)
    dataset = LatentTextDataset(rows, tmp_path)
    assert {dataset.get(0, rng(seed))["latent_mean"].shape[1] for seed in range(20)} == {3, 4}
    assert {dataset.get(1, rng(seed))["latent_mean"].shape[1] for seed in range(20)} == {4}


def test_a_planned_size_chooses_among_several_resolutions(rows, tmp_path):
    write_latents(tmp_path / "latent_16x24/clip0.npz", 3)
    write_latents(tmp_path / "latent_32x48/clip0.npz", 4)
    dataset = LatentTextDataset(rows, tmp_path)
    assert {dataset.get(0, rng(seed), (17, 32, 48))["latent_mean"].shape[1] for seed in range(20)} == {4}


def test_missing_caches_are_bad_samples(rows, folder, tmp_path):
    write_latents(tmp_path / "clip0.npz", 3)
    with pytest.raises(BadSample, match="clip1.npz is missing"):
        LatentTextDataset(rows, tmp_path).get(1, rng())
    with pytest.raises(BadSample, match="text/clip0.npz is missing"):
        LatentTextDataset(rows, tmp_path, tmp_path / "text").get(0, rng())


def test_memory_keeps_no_more_than_its_limit():
    reads = []

    def read(name):
        reads.append(name)
        return np.zeros(10, np.uint8)

    memory = Memory(25)
    for name in ("a", "b", "c", "a", "b", "c"):
        memory.get(name, lambda name=name: read(name))
    assert reads == ["a", "b", "c", "c"] and memory.used == 20


def test_datasets_do_not_need_mindspore():
    code = "import sys, opensora.data.dataset, opensora.data.masks; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_videos_that_do_not_fit_in_memory_are_streamed(rows):
    dataset = VideoTextDataset(rows, 3, (16, 16), cache_bytes=2 * 12 * 16 * 16 * 3)
    for index in (0, 1, 2, 3, 0):
        dataset.get(index, rng())
    assert [(row.file, dataset.transform) in dataset.memory for row in rows[:4]] == [True, True, False, False]


def test_an_embedding_of_another_caption_is_refused(rows, tmp_path):
    arrays = {"text_emb": np.zeros((4, 8), np.float32), "mask": np.ones(4), "tokens": np.arange(4)}
    write_text(cache_path(tmp_path, rows[0].relative), arrays, made_from={"text": "a red circle"})
    with pytest.raises(UserError, match="was made from 'a red circle', not from 'caption 0'"):
        VideoTextDataset(rows, 4, (16, 24), text_folder=tmp_path).get(0, rng())
