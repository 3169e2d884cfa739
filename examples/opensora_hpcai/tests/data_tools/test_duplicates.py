"""Near duplicates by hash and by CLIP."""

import numpy as np
import pytest

from mindone.errors import UserError
from opensora.cli import open_door
from opensora.data_tools.duplicates import earliest_alike
from opensora.data_tools.files import open_table, write_table
from opensora.data_tools.likeness import packed, unpacked

COLUMNS = ["video", "phash", "num_frames", "height", "width", "clip_vector"]
FIRST, OTHER = np.eye(8, dtype=np.float32)[:2]


def marked(folder, rows, *more):
    write_table(folder / "t.csv", COLUMNS, rows, frozenset())
    given = ["--table", str(folder / "t.csv"), "--output", str(folder / "o.csv"), *more]
    open_door("data duplicates", given, "opensora")
    return [row["duplicate_of"] for row in open_table(folder / "o.csv")]


def row(name, vector, frames=9):
    """Of a video whose hash is like no other's."""
    digits = np.random.default_rng(len(name) * 100 + ord(name[-1])).bytes(24).hex()
    cell = "" if vector is None else packed(vector[None])
    return {"video": name, "phash": digits, "num_frames": str(frames), "height": "4", "width": "4", "clip_vector": cell}


def test_clip_finds_what_the_hash_does_not_among_videos_of_the_same_size(tmp_path):
    near = FIRST + 0.1 * OTHER
    rows = [row("a", FIRST), row("b", OTHER), row("c", near), row("d", near, frames=8), row("e", None)]
    assert marked(tmp_path, rows) == [""] * 5
    assert marked(tmp_path, rows, "--similarity", "0.98") == ["", "", "a", "", ""]


def test_a_cell_keeps_the_cosine_and_what_is_none_is_refused(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(2, 768)).astype(np.float32)
    vectors[1] += 3 * vectors[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = (unpacked(packed(vector[None])) for vector in vectors)
    assert abs(first @ second - vectors[0] @ vectors[1]) < 2e-3
    wrong = row("a", FIRST) | {"clip_vector": "no vector"}
    with pytest.raises(UserError, match="is not a vector of CLIP"):
        marked(tmp_path, [wrong], "--similarity", "0.98")
    with pytest.raises(UserError, match="same model"):
        marked(tmp_path, [row("a", FIRST), row("b", np.ones(4))], "--similarity", "0.98")


def test_the_like_of_a_duplicate_is_the_first_of_all():
    near = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    assert earliest_alike(np.ones(3, bool), [lambda index, others: near[index][others]]).tolist() == [-1, 0, -1]
