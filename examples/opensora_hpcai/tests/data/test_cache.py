import contextlib
import errno
import logging

import numpy as np
import pytest

from mindone.data.errors import BadSample
from mindone.data.table import VideoRow
from mindone.errors import UserError
from opensora.data.cache import (
    LATENT_KEYS,
    TEXT_KEYS,
    LatentEntry,
    cache_path,
    difference,
    is_complete,
    latent_folders,
    prompt_files,
    prompt_path,
    read_latent,
    read_record,
    read_text,
    require_distinct,
    require_same_text,
    write_latent,
    write_text,
)

TEXT, MASK, TOKENS = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([1, 1, 0, 0]), np.array([5, 1, 0, 0])
ARRAYS = {"text_emb": TEXT, "mask": MASK, "tokens": TOKENS}


def entry(frames: int = 5) -> LatentEntry:
    mean = np.random.default_rng(0).normal(size=(frames, 4, 2, 3)).astype(np.float32)
    return LatentEntry(mean, np.abs(mean), 8.0, (240, 426), 17, (16, 24))


@pytest.mark.parametrize("batch_dim", [False, True])
def test_text_is_read_back_from_both_forms(tmp_path, batch_dim):
    write_text(tmp_path / "a.npz", ARRAYS, batch_dim)
    read = read_text(tmp_path / "a.npz")
    assert (read.text_emb == TEXT).all() and (read.mask == MASK).all() and (read.tokens == TOKENS).all()
    with np.load(tmp_path / "a.npz") as stored:
        assert sorted(stored.files) == ["mask", "text_emb", "tokens"]
        assert stored["text_emb"].shape == ((1, 4, 3) if batch_dim else (4, 3))
        assert stored["mask"].dtype == np.uint8 and stored["text_emb"].dtype == np.float32


def test_text_of_older_files_has_no_tokens(tmp_path):
    np.savez(tmp_path / "a.npz", text_emb=TEXT[None], mask=MASK[None].astype(np.uint8))
    assert read_text(tmp_path / "a.npz").tokens is None


def test_latents_are_read_back(tmp_path):
    write_latent(tmp_path / "x/a.npz", entry())
    read = read_latent(tmp_path / "x/a.npz")
    assert (read.mean == entry().mean).all() and (read.std == entry().std).all()
    assert (read.fps, read.ori_size, read.num_frames, read.size) == (8.0, (240, 426), 17, (16, 24))


def test_latents_without_a_deviation_have_none(tmp_path):
    write_latent(tmp_path / "a.npz", entry(), save_distribution=False)
    assert not read_latent(tmp_path / "a.npz").std.any()


def test_published_latent_files_are_understood(tmp_path):
    np.savez(tmp_path / "a.npz", latent_mean=entry().mean, latent_std=entry().std, fps=25.0, ori_size=(720, 1280))
    read = read_latent(tmp_path / "a.npz")
    assert (read.fps, read.ori_size, read.num_frames, read.size) == (25.0, (720, 1280), None, None)


@pytest.mark.parametrize("read", [read_text, read_latent])
def test_damaged_files_are_bad_samples(tmp_path, read):
    path = tmp_path / "a.npz"
    with pytest.raises(BadSample, match="a.npz is missing"):
        read(path)
    write_latent(path, entry()) if read is read_latent else write_text(path, ARRAYS)
    content = path.read_bytes()
    for damaged in (b"", b"no zip", content[: len(content) // 2], content[:90] + b"\xff" * 20 + content[110:]):
        path.write_bytes(damaged)
        with pytest.raises(BadSample, match="a.npz is damaged or not an npz file"):
            read(path)


def test_files_with_other_contents_are_bad_samples(tmp_path):
    write_latent(tmp_path / "latent.npz", entry())
    with pytest.raises(BadSample, match="not a text embedding cache: it lacks text_emb, mask"):
        read_text(tmp_path / "latent.npz")
    np.savez(tmp_path / "text.npz", text_emb=TEXT, mask=MASK[:2])
    with pytest.raises(BadSample, match="does not fit mask"):
        read_text(tmp_path / "text.npz")
    np.savez(tmp_path / "nan.npz", latent_mean=np.full((1, 4, 2, 2), np.nan))
    with pytest.raises(BadSample, match="not finite"):
        read_latent(tmp_path / "nan.npz")


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", latent_mean=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BadSample, match="allow_pickle=False"):
        read_latent(tmp_path / "a.npz")


def test_complete_files_are_told_from_others(tmp_path):
    write_text(tmp_path / "a.npz", ARRAYS)
    assert is_complete(tmp_path / "a.npz", TEXT_KEYS) and not is_complete(tmp_path / "a.npz", LATENT_KEYS)
    assert not is_complete(tmp_path / "b.npz", TEXT_KEYS)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    assert not is_complete(tmp_path / "cut.npz", TEXT_KEYS)


def test_names_follow_the_video_or_the_prompt(tmp_path):
    assert cache_path(tmp_path, "a/b.c.mp4") == tmp_path / "a/b.c.npz"
    assert prompt_path(tmp_path, 7, "A red circle!") == tmp_path / "007-A-red-circle.npz"


def test_prompt_files_come_in_the_order_of_the_list(tmp_path):
    for index in (0, 2, 1000, 999, 1):
        write_text(prompt_path(tmp_path, index, "z" if index else "a"), ARRAYS, batch_dim=True)
    assert [path.name[:4].strip("-") for path in prompt_files(tmp_path)] == ["000", "001", "002", "999", "1000"]


def test_folders_without_caches_are_an_error(tmp_path):
    with pytest.raises(UserError, match="has no .npz files"):
        prompt_files(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        latent_folders(tmp_path / "none")


def test_several_resolutions_are_found(tmp_path):
    assert latent_folders(tmp_path) == [tmp_path]
    for name in ("latent_256x256", "latent_512x512", "other"):
        (tmp_path / name).mkdir()
    assert [folder.name for folder in latent_folders(tmp_path)] == ["latent_256x256", "latent_512x512"]


# --- what a file was made from ----------------------------------------------------------------------------------------


def test_a_file_says_what_it_was_made_from_and_older_readers_do_not_mind(tmp_path):
    record = {"text": "A caf\u00e9", "encoded": "a caf\u00e9", "model_max_length": 300}
    write_text(tmp_path / "a.npz", ARRAYS, made_from=record)
    write_latent(tmp_path / "b.npz", entry(), made_from={"video": "b.mp4"})
    read = read_text(tmp_path / "a.npz")
    assert (read.text, read.encoded) == ("A caf\u00e9", "a caf\u00e9")
    assert read_record(tmp_path / "a.npz") == record and read_record(tmp_path / "b.npz") == {"video": "b.mp4"}
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert (stored["text_emb"] == TEXT).all() and stored["made_from"].dtype == np.uint8


def test_a_file_without_a_record_says_nothing(tmp_path):
    write_text(tmp_path / "a.npz", ARRAYS)
    assert read_record(tmp_path / "a.npz") is None and read_text(tmp_path / "a.npz").text is None


@pytest.mark.parametrize("content", [b"[]", b"1", b"{", b'{"text": 3}', b"[" * 9999, b"\xff"])
def test_a_damaged_record_is_a_bad_sample(tmp_path, content):
    np.savez(tmp_path / "a.npz", text_emb=TEXT, mask=MASK, made_from=np.frombuffer(content, np.uint8))
    for read in (read_text, read_record):
        with pytest.raises(BadSample, match="made_from does not say in JSON"):
            read(tmp_path / "a.npz")


def test_differences_name_the_setting(tmp_path):
    record = {"text": "A cat", "encoded": "a cat", "dtype": "fp32"}
    assert difference(record, {**record, "new": 1}) is None
    assert difference(record, {"text": "a CAT", "encoded": "a cat"}) is None
    assert difference(record, {"encoded": "a dog"}) == "encoded was 'a cat' and is 'a dog' now"


def test_a_cache_is_not_used_for_another_prompt(tmp_path):
    path = tmp_path / "a.npz"
    write_text(path, ARRAYS, made_from={"text": "A red circle", "encoded": "a red circle"})
    require_same_text(path, read_text(path), "A red circle")
    require_same_text(path, read_text(path), "A RED circle", "a red circle")
    with pytest.raises(UserError, match="a.npz was made from 'A red circle', not from 'a cat'"):
        require_same_text(path, read_text(path), "a cat")
    write_text(path, ARRAYS)
    require_same_text(path, read_text(path), "a cat")


# --- names ------------------------------------------------------------------------------------------------------------


def rows(*names: str) -> list[VideoRow]:
    return [VideoRow(name, "v", line=line) for line, name in enumerate(names, start=2)]


def test_two_videos_with_one_cache_file_are_refused():
    message = "t.csv, lines 2 and 4: x/clip.mp4 and x/clip.mov would share the cache file x/clip.npz"
    with pytest.raises(UserError, match=message):
        require_distinct(rows("x/clip.mp4", "y/clip.mp4", "x/clip.mov"), "t.csv")
    require_distinct(rows("x/clip.mp4", "x/clip.mp4", "x/clip.1.mp4", "clip.mp4"), "t.csv")


@pytest.mark.parametrize("other", ["x/CLIP\u00e9.mp4", "X/clip\u00e9.mov", "x/clipe\u0301.mp4"])
def test_names_that_some_file_systems_do_not_tell_apart_are_reported(other, caplog):
    with caplog.at_level(logging.WARNING):
        require_distinct(rows("x/clip\u00e9.mp4", "a.mp4", other), "t.csv")
    assert "1 names differ from another in case or accents only, such as x/clip\u00e9.mp4 in line 2 and" in caplog.text


def test_unfinished_files_are_no_caches(tmp_path):
    for name in ("000-a.npz", ".tmp-12-001-b.npz"):
        write_text(tmp_path / name, ARRAYS)
    assert [path.name for path in prompt_files(tmp_path)] == ["000-a.npz"]


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text_emb": TEXT * np.nan}, "text_emb has numbers that are not finite"),
        ({"text_emb": TEXT.astype(np.float64) * 1e300}, "text_emb has numbers that are not finite"),
        ({"text_emb": TEXT.astype(np.int64)}, "text_emb is of int64, not of floats"),
        ({"text_emb": TEXT.astype(np.complex64)}, "text_emb holds no numbers but '<c8'"),
        ({"text_emb": TEXT.astype(str)}, "text_emb holds no numbers but '<U"),
        ({"text_emb": TEXT[:0], "mask": MASK[:0]}, r"text_emb has the shape \(0, 3\)"),
        ({"text_emb": np.stack([TEXT, TEXT])}, r"text_emb has the shape \(2, 4, 3\)"),
        ({"mask": MASK * 0}, "there is at least one"),
        ({"mask": MASK * 2}, "mask has to be of zeros and ones"),
        ({"mask": MASK * np.nan}, "mask has to be of zeros and ones"),
        ({"tokens": TOKENS[:2]}, "does not fit tokens"),
        ({"tokens": TOKENS - 9}, "tokens are not ids"),
        ({"tokens": TOKENS / 2}, "tokens are not ids"),
    ],
)
def test_text_that_no_encoder_gives_is_a_bad_sample(tmp_path, changes, reason):
    np.savez(tmp_path / "a.npz", **{"text_emb": TEXT, "mask": MASK, "tokens": TOKENS, **changes})
    with pytest.raises(BadSample, match=reason):
        read_text(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"latent_mean": np.ones((5, 4, 2, 3), np.int64)}, "latent_mean is of int64"),
        ({"latent_std": -np.ones((5, 4, 2, 3), np.float32)}, "latent_std has negative"),
        ({"latent_std": np.full((5, 4, 2, 3), np.inf, np.float32)}, "latent_std has numbers that are not finite"),
        ({"latent_std": np.ones((5, 4, 2), np.float32)}, "are not both"),
        ({"latent_mean": np.ones((0, 4, 2, 3), np.float32), "latent_std": np.ones((0, 4, 2, 3))}, "are not both"),
        ({"fps": np.array("24")}, "fps holds no numbers"),
        ({"fps": np.array([8.0, 9.0])}, r"fps=\[8.0, 9.0\] has to be 1 number from 0 on"),
        ({"fps": np.float32("nan")}, "fps=.nan. has to be"),
        ({"fps": np.float32(-1)}, "fps=.-1.0. has to be"),
        ({"num_frames": np.array([1, 2, 3])}, "num_frames=.* has to be 1 whole number from 1 on"),
        ({"num_frames": np.int32(0)}, "num_frames=.0. has to be"),
        ({"num_frames": np.float32(1.5)}, "num_frames=.1.5. has to be"),
        ({"ori_size": np.array(["240", "426"])}, "ori_size holds no numbers"),
        ({"ori_size": np.array([240])}, "ori_size=.* has to be 2 whole numbers from 0 on"),
        ({"size": np.array([0, 24])}, "size=.* has to be 2 whole numbers from 1 on"),
    ],
)
def test_latents_that_no_video_gives_are_a_bad_sample(tmp_path, changes, reason):
    right = {"latent_mean": entry().mean, "latent_std": entry().std, "fps": 8.0, "num_frames": 17}
    np.savez(tmp_path / "a.npz", **{**right, **changes})
    with pytest.raises(BadSample, match=reason):
        read_latent(tmp_path / "a.npz")


def test_a_full_disk_is_one_sentence_with_the_room_that_is_needed(tmp_path, monkeypatch):
    class Full:
        name = "unfinished"

        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device", "/inner/.tmp-1")

    @contextlib.contextmanager
    def atomic_write(path):
        try:
            yield Full()
        except OSError as error:
            raise UserError(f"cannot write {path}: the disk is full") from error

    monkeypatch.setattr("opensora.data.cache.atomic_write", atomic_write)
    with pytest.raises(UserError, match=r"cannot write .*a.npz: it takes 0.001 MB, and [0-9.]+ MB are free") as caught:
        write_text(tmp_path / "a.npz", ARRAYS)
    assert ".tmp-" not in str(caught.value)
