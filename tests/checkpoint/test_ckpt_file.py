import mindspore as ms
import numpy as np
import pytest

from mindone.checkpoint import ckpt_file, read_tensors, save_ckpt
from mindone.errors import UserError


@pytest.fixture
def parameters(arrays):
    return [{"name": name, "data": ms.Tensor(array)} for name, array in arrays.items()]


@pytest.mark.parametrize("crc_check", [True, False])
def test_files_of_mindspore_are_read(tmp_path, arrays, parameters, assert_same, crc_check):
    ms.save_checkpoint(parameters, str(tmp_path / "a.ckpt"), crc_check=crc_check)
    assert_same(read_tensors(tmp_path / "a.ckpt"), arrays)


def test_values_that_training_stored_beside_the_weights_are_read_or_passed_over(tmp_path, parameters):
    extra = {"epoch_num": 3, "lr": 0.5, "note": "text"}
    ms.save_checkpoint(parameters[:1], str(tmp_path / "a.ckpt"), append_dict=extra)
    found = read_tensors(tmp_path / "a.ckpt")
    assert list(found) == ["block.weight"]
    found = read_tensors(tmp_path / "a.ckpt", "all")
    assert list(found) == ["block.weight", "epoch_num", "lr"]
    assert (found["epoch_num"], found["lr"]) == (3, 0.5)


def test_mindspore_reads_what_we_write_and_finds_its_checksum_right(tmp_path, arrays, assert_same):
    save_ckpt(tmp_path / "a.ckpt", arrays)
    found = ms.load_checkpoint(str(tmp_path / "a.ckpt"), crc_check=True)
    assert found["block.brain"].dtype == ms.bfloat16
    assert_same({name: value.asnumpy().view(arrays[name].dtype) for name, value in found.items()}, arrays)


def test_large_tensors_are_written_in_parts(tmp_path, monkeypatch, assert_same):
    monkeypatch.setattr(ckpt_file, "PART_BYTES", 64)
    arrays = {"big": np.arange(100, dtype=np.float32).reshape(20, 5), "empty": np.zeros((0, 3), np.float32)}
    save_ckpt(tmp_path / "a.ckpt", arrays)
    assert_same(read_tensors(tmp_path / "a.ckpt"), arrays)
    assert np.array_equal(ms.load_checkpoint(str(tmp_path / "a.ckpt"))["big"].asnumpy(), arrays["big"])


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path, arrays):
    save_ckpt(tmp_path / "a.ckpt", arrays)
    content = bytearray((tmp_path / "a.ckpt").read_bytes())
    content[40] ^= 1
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        read_tensors(tmp_path / "a.ckpt")


def test_a_file_cut_inside_a_tensor_is_refused_with_and_without_checksum(tmp_path, arrays):
    save_ckpt(tmp_path / "whole.ckpt", arrays)
    whole = (tmp_path / "whole.ckpt").read_bytes()
    first = dict(list(arrays.items())[:1])
    save_ckpt(tmp_path / "first.ckpt", first)
    boundary = (tmp_path / "first.ckpt").stat().st_size - ckpt_file.CHECKSUM_BYTES
    for length in {*range(1, len(whole) - ckpt_file.CHECKSUM_BYTES, 9), len(whole) - 3} - {boundary}:
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        try:
            found = read_tensors(tmp_path / "cut.ckpt")
        except UserError:
            continue
        # Only a cut between two tensors looks like a shorter file; what is there is right.
        assert all(np.array_equal(found[name], arrays[name]) for name in found)
        assert len(found) < len(arrays)


def test_other_bytes_are_refused(tmp_path):
    for content in (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b\x00", b"\x12\x00", b"\x0a\x02\x0a\x00"):
        (tmp_path / "a.ckpt").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.ckpt is not a sound MindSpore checkpoint"):
            read_tensors(tmp_path / "a.ckpt")


def test_a_dtype_mindspore_lacks_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(UserError, match="dtype"):
        save_ckpt(tmp_path / "a.ckpt", {"a": np.array(["text"])})
    assert not list(tmp_path.iterdir())
