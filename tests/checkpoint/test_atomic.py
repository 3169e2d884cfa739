import errno
import os

import pytest

from mindone.checkpoint.atomic import atomic_folder, atomic_write
from mindone.errors import UserError


def test_a_file_appears_with_its_whole_content_and_the_usual_mode(tmp_path):
    umask = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "new" / "a.txt") as file:
            file.write(b"hello")
            assert not (tmp_path / "new" / "a.txt").exists()
    finally:
        os.umask(umask)
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"hello"
    assert (tmp_path / "new" / "a.txt").stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.txt") as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"old"


def test_a_library_may_write_the_file_through_its_name(tmp_path):
    with atomic_write(tmp_path / "a.txt") as file, open(file.name, "wb") as other:
        other.write(b"by name")
    assert (tmp_path / "a.txt").read_bytes() == b"by name"


def test_the_longest_file_name_can_be_written(tmp_path):
    name = "ü" * 127
    with atomic_write(tmp_path / name) as file:
        file.write(b"x")
    assert (tmp_path / name).is_file()


def test_a_full_disk_is_one_clear_sentence(tmp_path):
    with pytest.raises(UserError, match="disk is full"), atomic_write(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("writer", [atomic_write, atomic_folder])
def test_a_place_of_the_wrong_kind_is_refused(tmp_path, writer):
    (tmp_path / "file").write_bytes(b"")
    place = tmp_path if writer is atomic_write else tmp_path / "file"
    with pytest.raises(UserError, match="cannot write"), writer(place):
        pass
    with pytest.raises(UserError, match="cannot write"), writer(tmp_path / "file" / "below"):
        pass


def test_a_folder_takes_the_place_of_the_one_before(tmp_path):
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "out") as folder:
            (folder / content).write_text(content)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "two"]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "one").write_text("1")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out") as folder:
        (folder / "two").write_text("2")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "one"]
