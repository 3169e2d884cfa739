import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindone.checkpoint import read_tensors, save_safetensors

TOOLS = Path(__file__).parents[2] / "tools"


class Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_denoiser_is_converted_with_its_published_names(tmp_path, tool):
    weights = {"spatial_blocks.0.attn.q_norm.weight": np.arange(4, dtype=np.float32)}
    save_safetensors(tmp_path / "model.safetensors", weights)
    tool("convert_pt2ms")("--src", tmp_path, "--target", tmp_path / "a.ckpt")
    tool("convert_pt2ms")("--src", tmp_path / "a.ckpt", "--target", tmp_path / "b.ckpt", "--names", "mindspore")
    assert list(read_tensors(tmp_path / "a.ckpt")) == list(weights)
    assert list(read_tensors(tmp_path / "b.ckpt")) == ["spatial_blocks.0.attn.q_norm.gamma"]


@pytest.mark.parametrize("flags", [(), ("--from_vae2d",)])
def test_an_autoencoder_is_converted_with_its_published_names(tmp_path, flags, tool):
    spatial = {"encoder.down.0.block.0.norm1.gamma": np.ones(4, np.float32)}
    if not flags:
        spatial = {f"spatial_vae.module.{name}": array for name, array in spatial.items()}
        spatial |= {"temporal_vae.encoder.norm1.gamma": np.ones(4, np.float32)}
    save_safetensors(tmp_path / "a.safetensors", spatial)
    tool("convert_vae_3d")("--src", tmp_path / "a.safetensors", "--target", tmp_path / "a.ckpt", *flags)
    assert "spatial_vae.module.encoder.down_blocks.0.resnets.0.norm1.weight" in read_tensors(tmp_path / "a.ckpt")


def test_the_older_name_of_the_autoencoder_tool_takes_the_same_flags(tmp_path):
    save_safetensors(tmp_path / "a.safetensors", {"encoder.conv_in.bias": np.ones(4, np.float32)})
    command = [sys.executable, TOOLS / "convert_vae1.2.py", "--src", tmp_path / "a.safetensors", "--from_vae2d"]
    subprocess.run([*command, "--target", tmp_path / "b.ckpt"], check=True)
    assert list(read_tensors(tmp_path / "b.ckpt")) == ["spatial_vae.module.encoder.conv_in.bias"]


def test_a_download_without_network_ends_in_one_line(tmp_path, capsys, monkeypatch, tool):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as error:
        tool("download_convert_st")("studio/tiny", "--target", tmp_path / "tiny", "--disable_ssl_verify")
    assert error.value.code == 2
    assert "has no weights of studio/tiny yet" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["convert_pt2ms", "convert_vae", "convert_vae_3d"])
def test_a_pickle_that_would_run_a_program_ends_in_one_line_and_exit_code_2(tmp_path, capsys, name, tool):
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    (tmp_path / "evil.pth").write_bytes(magic + pickle.dumps({"w": Evil(f"touch {tmp_path / 'was_run'}")}, 2))
    with pytest.raises(SystemExit) as error:
        tool(name)("--src", tmp_path / "evil.pth", "--target", tmp_path / "out.ckpt")
    assert error.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "wants to run" in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]
