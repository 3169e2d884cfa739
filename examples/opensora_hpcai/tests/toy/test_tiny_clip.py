import numpy as np
import pytest

from opensora.text.encoder import TextEncoder
from opensora.text.tokenizer import TextTokenizer
from opensora.toy.tiny_clip import write_tiny_clip
from opensora.toy.world import captions, scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("tiny_clip"))


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_weights(folder, tmp_path):
    again, other = write_tiny_clip(tmp_path / "again"), write_tiny_clip(tmp_path / "other", seed=1)
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
    assert (folder / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_texts_of_the_toy_world_fit_into_its_77_tokens(folder):
    texts = [text for scene in scenes("all") for text in captions(scene)]
    _, _, lengths = TextTokenizer(folder, 77)(texts)
    assert max(lengths) <= 77
    assert lengths == [len(text.replace(" ", "")) + 2 for text in texts]


def test_texts_of_the_toy_world_have_vectors_that_differ(folder):
    texts = [captions(scene)[0] for scene in scenes("all")]
    vectors = TextEncoder.from_folder(folder, 77, batch_size=90).encode(texts).pooled
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    assert distances[~np.eye(len(texts), dtype=bool)].min() > 0.25
