"""Digests of models."""

import numpy as np

from mindone.checkpoint import weights_digest


def test_a_digest_knows_weights_by_content_alone(tmp_path):
    def model(name: str, file: str, content: bytes) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / file).write_bytes(content)
        (tmp_path / name / "README.md").write_text(name)
        return weights_digest(tmp_path / name)

    large = bytearray(np.random.default_rng(0).bytes(9 << 20))
    digest = model("a", "model.safetensors", bytes(large))
    assert digest == model("b", "pytorch_model.bin", bytes(large)) == weights_digest(tmp_path / "a/model.safetensors")
    large[-1] ^= 1
    assert digest != model("c", "model.safetensors", bytes(large))
    (tmp_path / "a/config.json").write_text('{"depth": 2}')
    assert digest != weights_digest(tmp_path / "a") == weights_digest(tmp_path / "a/model.safetensors")
