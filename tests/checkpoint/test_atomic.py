import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest

from mindone.checkpoint import save_safetensors
from mindone.checkpoint.atomic import atomic_folder, atomic_write, remove_folder, require_writable
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


def full_disk():
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_without_the_room_is_found_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000, total=9000))
    with pytest.raises(UserError, match=r"a\.safetensors: the disk is full \(4,000 bytes are needed, 1,000 are free\)"):
        save_safetensors(tmp_path / "a.safetensors", {"w": np.zeros(1000, np.float32)})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_final_place_of_a_file_in_an_unfinished_folder(tmp_path):
    place = tmp_path / "step-00000100"
    with pytest.raises(UserError) as error, atomic_folder(place) as outer, atomic_folder(outer / "model") as inner:
        (inner / "config.json").write_text("12345")
        with atomic_write(inner / "model.safetensors", 7) as file:
            file.write(b"123")
            full_disk()
    message = str(error.value)
    assert f"cannot write {place / 'model' / 'model.safetensors'}: the disk is full (7 bytes are needed" in message
    assert ".tmp-" not in message
    assert not list(tmp_path.iterdir())


def test_a_full_disk_in_a_folder_says_what_was_written_so_far(tmp_path):
    with pytest.raises(UserError, match="out: the disk is full .more than the 2,000 bytes written so far"):  # noqa: SIM117
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "a").write_bytes(bytes(2000))
            full_disk()


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
def test_what_else_a_disk_says_is_one_sentence_too(tmp_path, number):
    with pytest.raises(UserError, match="cannot write .*a.txt: "), atomic_write(tmp_path / "a.txt"):
        raise OSError(number, os.strerror(number))


def test_a_missing_source_is_not_blamed_on_the_target(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.txt"):
        (tmp_path / "nothing").read_bytes()


def test_a_folder_that_cannot_be_deleted_stays_with_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "mounted").mkdir()

    def busy(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr("os.rename", busy)
    assert not remove_folder(tmp_path / "mounted")
    assert "mounted stays: it cannot be deleted (Device or resource busy)" in caplog.text
    monkeypatch.undo()
    assert remove_folder(tmp_path / "mounted")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_made_and_proven_to_be_writable(tmp_path, monkeypatch):
    require_writable(tmp_path / "new" / "run")
    assert not list((tmp_path / "new" / "run").iterdir())
    with pytest.raises(UserError, match="run: the disk is full .1,000,000,000,000,000 bytes are needed"):
        require_writable(tmp_path / "new" / "run", 10**15)

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.write_bytes", read_only)
    with pytest.raises(UserError, match="cannot write .*run: Read-only file system"):
        require_writable(tmp_path / "new" / "run")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*below"):
        require_writable(tmp_path / "file" / "below")
