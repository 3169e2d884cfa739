import logging
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from mindone.checkpoint import read_tensors
from mindone.errors import UserError


class Evil:
    """Pickles to a call of ``os.system``."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_tensors_of_both_formats_are_read(tmp_path, torch_save, arrays, assert_same):
    found = read_tensors(torch_save(tmp_path / "a.pth", arrays))
    assert_same(found, arrays)
    assert found.shape("block.brain") == (2, 3)
    assert found.dtype("block.brain") == ml_dtypes.bfloat16


@pytest.mark.parametrize("name", ["a.ckpt", "a.bin", "weights"])
def test_the_content_decides_the_format(tmp_path, torch_save, name):
    assert list(read_tensors(torch_save(tmp_path / name, {"w": np.zeros(2, np.float32)}))) == ["w"]


def test_views_are_read_with_their_offset_and_strides(tmp_path, save_zip, torch_pickle):
    pickler, base = torch_pickle(), np.arange(24, dtype=np.float32)
    parts = {"t": pickler.tensor(base, (4, 6), (1, 4), 0), "part": pickler.tensor(base, (2, 3), (6, 2), 1)}
    found = read_tensors(save_zip(tmp_path / "a.pth", parts, pickler))
    assert np.array_equal(found["t"], base.reshape(6, 4).T)
    assert np.array_equal(found["part"], [[1, 3, 5], [7, 9, 11]])


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((25,), (1,), 0), ((2,), (1,), 23), ((4, 6), (7, 1), 0), ((1000,), (0,), 0), ((-1,), (1,), 0), ((2, 2), (1,), 0)],
)
def test_a_tensor_that_reaches_out_of_its_storage_is_refused(tmp_path, save_zip, torch_pickle, shape, strides, offset):
    pickler = torch_pickle()
    value = {"a": pickler.tensor(np.zeros(24, np.float32), shape, strides, offset)}
    with pytest.raises(UserError, match=r"a\.pth is not a sound PyTorch file"):
        read_tensors(save_zip(tmp_path / "a.pth", value, pickler))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"ema": {"w": 1}, "state_dict": {"v": 1}}, ["v"]),
        ({"state_dict": {"w": 1}, "optimizer": {"m": 1}, "epoch": 0}, ["w"]),
        ({"model": {"module": {"w": 1}}}, ["w"]),
        ({"encoder": {"w": 1}, "decoder": {"w": 1}}, ["encoder.w", "decoder.w"]),
        ({"a.w": 1, "model": {"x": 1}}, ["a.w", "model.x"]),
        ({"state_dict": {"w": 1}, "loss": 1, "step": 1}, ["w"]),
        ({"model_state_dict": {"w": 1}, "optimizer_state_dict": {"state": {"0": {"exp_avg": 1}}}}, ["w"]),
        ({"model": {"w": 1}, "ema": {"w": 1}, "opt": {"state": {"0": {"exp_avg": 1}}}, "step": 1}, ["w"]),
        ({"state_dict": {"w": 1}, "state_dict_ema": {"v": 1}}, ["w"]),
        ({"ema_state_dict": {"v": 1}}, ["v"]),
        ({"state_dict_ema": {"module": {"v": 1}}, "optimizer": {"m": 1}}, ["v"]),
        ({"params": {"w": 1}, "params_ema": {"v": 1}}, ["w"]),
        ({"params": {"lr": 0}, "net": {"w": 1}}, ["w"]),
        ({"generator": {"w": 1}, "discriminator": {"v": 1}}, ["w"]),
        ({"state_dict": {"gen_model": {"w": 1}, "dics_model": {"v": 1}}, "ema_state_dict": {"u": 1}}, ["w"]),
        ({"encoder": {"w": 1}, "decoder": {"w": 1}, "opt": {"m": 1}, "ema": {"v": 1}}, ["encoder.w", "decoder.w"]),
        ({"w": 1, "num_batches_tracked": 1, "global_step": 1, "lr_scheduler": {"x": 1}}, ["w", "num_batches_tracked"]),
    ],
)
def test_the_weights_are_found_in_the_usual_containers(tmp_path, torch_save, content, names):
    def filled(value):
        return {key: filled(item) for key, item in value.items()} if isinstance(value, dict) else np.zeros(1)

    def with_arrays(value):
        return np.zeros(2, np.float32) if value == 1 else value

    def walk(value):
        return {key: walk(item) if isinstance(item, dict) else with_arrays(item) for key, item in value.items()}

    assert list(read_tensors(torch_save(tmp_path / "a.pth", walk(content)))) == names


def test_the_container_that_is_left_out_is_named(tmp_path, torch_save, caplog):
    weights = {"w": np.zeros(2, np.float32)}
    with caplog.at_level(logging.WARNING):
        read_tensors(torch_save(tmp_path / "a.pth", {"ema": weights, "model": weights}))
    assert "taking the weights in model; left out: ema (1 tensors); weights=ema (of the tools" in caplog.text


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_a_program_is_refused_and_runs_nothing(tmp_path, save_zip, opcodes, protocol):
    command = f"touch {tmp_path / 'was_run'}"
    evil = pickle.dumps({"x": Evil(command)}, protocol)
    (tmp_path / "old.pth").write_bytes(b"\x80\x02." if protocol < 2 else evil)
    inner = evil[2:-1] if protocol >= 2 else evil[:-1]
    save_zip(tmp_path / "new.pth", {"w": np.zeros(2, np.float32), "x": opcodes(inner)})
    with pytest.raises(UserError, match=r"new\.pth wants to run (posix|nt)\.system"):
        read_tensors(tmp_path / "new.pth")
    with pytest.raises(UserError, match=r"old\.pth"):
        read_tensors(tmp_path / "old.pth")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(X\x01\x00\x00\x001tR",
        b"cbuiltins\ngetattr\n(tR",
        b"ctorch.storage\n_load_from_bytes\n(tR",
        b"ctorch\nload\n(tR",
        b"ctorch.hub\nFloatStorage\n",
        b"(iposix\nsystem\n",
        b"(cposix\nsystem\no",
        b"\x82\x01",
        b"Pidentity\n",
    ],
)
def test_other_names_and_ways_to_call_are_refused(tmp_path, save_zip, opcodes, code):
    with pytest.raises(UserError, match="wants to run"):
        read_tensors(save_zip(tmp_path / "a.pth", {"x": opcodes(code)}))


@pytest.mark.parametrize(
    "code",
    [
        b"X\x01\x00\x00\x00a(tR",
        b"ccollections\nOrderedDict\nNR",
        b"h\x63",
        b"000000",
        b"\x87",
        b"u",
        b"}((tNu",
        b"NQ",
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NJ\xff\xff\xff\xfftQ",
    ],
)
def test_senseless_pickles_are_refused_as_damaged(tmp_path, save_zip, opcodes, code):
    with pytest.raises(UserError, match="not a sound PyTorch file"):
        read_tensors(save_zip(tmp_path / "a.pth", {"x": opcodes(code)}))


def nested(depth):
    """A dict in a dict and so on; each is 26 times in the next one, so there are 26**depth ways through them."""
    level = (
        b"0}(" + b"".join(b"X\x01\x00\x00\x00" + bytes([letter]) + b"h\x00" for letter in range(97, 123)) + b"uq\x00"
    )
    return b"}q\x00" + level * depth


def test_containers_that_hold_each_other_do_not_hang_the_reader(tmp_path, save_zip, opcodes):
    itself = b"}q\x01X\x01\x00\x00\x00ah\x01s"
    value = {"w": np.zeros(2, np.float32), "shared": opcodes(nested(12)), "itself": opcodes(itself)}
    assert list(read_tensors(save_zip(tmp_path / "a.pth", value))) == ["w"]
    with pytest.raises(UserError) as error:
        read_tensors(save_zip(tmp_path / "a.pth", {"deep": opcodes(nested(100))}))
    assert "nested more than" in str(error.value)


def test_plain_data_beside_the_weights_is_passed_over(tmp_path, torch_save, opcodes):
    beside = {
        "lr": opcodes(b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\x00\x00\x00f8tRX\x01\x00\x00\x00atR"),
        "args": opcodes(b"cargparse\nNamespace\n)\x81}X\x01\x00\x00\x00aNsb"),
        "dtype": opcodes(b"ctorch\nfloat32\n"),
        "set": opcodes(b"c__builtin__\nset\n(]X\x01\x00\x00\x00aatR"),
    }
    content = {"w": np.ones(2, np.float32), **beside}
    assert list(read_tensors(torch_save(tmp_path / "a.pth", content))) == ["w"]


def test_a_file_cut_anywhere_is_refused(tmp_path, torch_save, arrays):
    whole = torch_save(tmp_path / "whole.pth", arrays).read_bytes()
    for length in range(0, len(whole), 11):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pth"):
            read_tensors(tmp_path / "cut.pth")


def test_flipped_bytes_end_in_tensors_or_in_a_clear_error(tmp_path, torch_save, arrays):
    whole = bytearray(torch_save(tmp_path / "whole.pth", arrays).read_bytes())
    numbers = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = whole.copy()
        damaged[numbers.integers(len(whole))] = numbers.integers(256)
        (tmp_path / "damaged.pth").write_bytes(damaged)
        try:
            dict(read_tensors(tmp_path / "damaged.pth").items())
        except UserError:
            refused += 1
    assert refused > 15


def test_archives_that_are_not_checkpoints_are_refused_with_the_reason(tmp_path, save_zip):
    weights = {"w": np.zeros(2, np.float32)}
    np.savez(tmp_path / "a.npz", a=np.zeros(1))
    with pytest.raises(UserError, match="not one of PyTorch"):
        read_tensors(tmp_path / "a.npz")
    with pytest.raises(UserError, match="compressed"):
        read_tensors(save_zip(tmp_path / "a.pth", weights, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(UserError, match="storage 0 is missing"):
        read_tensors(save_zip(tmp_path / "a.pth", weights, omit=("data/0",)))
    with zipfile.ZipFile(save_zip(tmp_path / "a.pth", weights), "a") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(UserError, match="TorchScript"):
        read_tensors(tmp_path / "a.pth")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match="not a checkpoint of PyTorch"):
        read_tensors(tmp_path / "b.pkl")
    with pytest.raises(UserError, match="no tensors"):
        read_tensors(save_zip(tmp_path / "c.pth", {"epoch": 3}))
