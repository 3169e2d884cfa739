"""Scores by CLIP, with a small one of random weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mindone.checkpoint import save_model
from mindone.errors import UserError
from mindone.models.aesthetic import AestheticHead
from mindone.models.clip_vision import CLIP
from opensora import outputs
from opensora.data_tools.judges import Judges

TOKENIZER = Path(__file__).parents[2] / "models/tiny/t5"
LAYERS = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG = {
    "projection_dim": 12,
    "text_config": {**LAYERS, "vocab_size": 512, "max_position_embeddings": 16, "eos_token_id": 1},
    "vision_config": {**LAYERS, "image_size": 16, "patch_size": 8},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("clip")
    save_model(root, CLIP.from_dict(CONFIG), CONFIG)
    outputs.write_json(root / "config.json", CONFIG)
    for file in TOKENIZER.glob("*token*.json"):
        shutil.copy(file, root)
    save_model(root / "head", AestheticHead(12), {})
    return root


def test_pictures_are_scored_and_matched_with_texts(folder):
    judges = Judges(str(folder), str(folder / "head" / "model.safetensors"))
    frames = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3)).astype(np.uint8)
    vectors = judges.vectors(frames)
    assert vectors.shape == (2, 12)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert np.isfinite(judges.aesthetic(vectors))
    match = judges.match(vectors, ["a red circle moves left", "a blue square"])
    assert match.shape == (2,) and np.isfinite(match).all()


def test_a_folder_without_a_whole_clip_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not the config of a CLIP with both towers"):
        Judges(str(tmp_path), None)
