import numpy as np
import pytest

from mindone.data.errors import BadSample
from mindone.errors import UserError
from opensora.data.cache import (
    LATENT_KEYS,
    TEXT_KEYS,
    LatentEntry,
    cache_path,
    is_complete,
    latent_folders,
    prompt_files,
    prompt_path,
    read_latent,
    read_text,
    write_latent,
    write_text,
)

TEXT, MASK, TOKENS = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([1, 1, 0, 0]), np.array([5, 1, 0, 0])


def entry(frames: int = 5) -> LatentEntry:
    mean = np.random.default_rng(0).normal(size=(frames, 4, 2, 3)).astype(np.float32)
    return LatentEntry(mean, np.abs(mean), 8.0, (240, 426), 17, (16, 24))


@pytest.mark.parametrize("batch_dim", [False, True])
def test_text_is_read_back_from_both_forms(tmp_path, batch_dim):
    write_text(tmp_path / "a.npz", TEXT, MASK, TOKENS, batch_dim)
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
    write_latent(path, entry()) if read is read_latent else write_text(path, TEXT, MASK, TOKENS)
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
    write_text(tmp_path / "a.npz", TEXT, MASK, TOKENS)
    assert is_complete(tmp_path / "a.npz", TEXT_KEYS) and not is_complete(tmp_path / "a.npz", LATENT_KEYS)
    assert not is_complete(tmp_path / "b.npz", TEXT_KEYS)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    assert not is_complete(tmp_path / "cut.npz", TEXT_KEYS)


def test_names_follow_the_video_or_the_prompt(tmp_path):
    assert cache_path(tmp_path, "a/b.c.mp4") == tmp_path / "a/b.c.npz"
    assert prompt_path(tmp_path, 7, "A red circle!") == tmp_path / "007-A-red-circle.npz"


def test_prompt_files_come_in_the_order_of_the_list(tmp_path):
    for index in (0, 2, 1000, 999, 1):
        write_text(prompt_path(tmp_path, index, "z" if index else "a"), TEXT, MASK, TOKENS, batch_dim=True)
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
