import numpy as np
import pytest

from opensora.text.encoder import TextEncoder
from opensora.text.tokenizer import TextTokenizer
from opensora.toy.tiny_t5 import write_tiny_t5
from opensora.toy.world import captions, scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_t5(tmp_path_factory.mktemp("tiny_t5"))


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_weights(folder, tmp_path):
    again, other = write_tiny_t5(tmp_path / "again"), write_tiny_t5(tmp_path / "other", seed=1)
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
    assert (folder / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_words_of_the_toy_world_are_single_tokens(folder):
    texts = [text for scene in scenes("all") for text in captions(scene)]
    _, mask, lengths = TextTokenizer(folder, 16)(texts)
    assert lengths == [len(text.split()) + 1 for text in texts]
    assert mask.sum(1).tolist() == lengths


def test_any_prompt_has_tokens_without_unknown_ones(folder):
    unknown = 2
    tokens, mask, lengths = TextTokenizer(folder, 64)(["Ein Hund läuft, 3.5 m!", "狗", "🚀 \t\n", ""])
    assert not (tokens == unknown).any() and min(lengths) >= 1
    assert [row[length - 1] for row, length in zip(tokens, lengths)] == [1, 1, 1, 1]


def test_transformers_reads_the_folder_as_a_tokenizer(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    text = "the purple triangle stands still"
    ids = tokenizer(text)["input_ids"]
    assert ids == TextTokenizer(folder, 16)([text])[0][0, : len(ids)].tolist()
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_outputs_tell_words_and_their_order_apart(folder):
    encoder = TextEncoder.from_folder(folder, 8, batch_size=4)
    texts = [
        "a red circle moves left",
        "a blue circle moves left",
        "a circle red moves left",
        "a red circle moves left",
    ]
    first, word, order, again = encoder.encode(texts).embeddings
    # Not equal bit by bit: a matrix product may add up the last rows of a batch in another order.
    np.testing.assert_allclose(again, first, atol=1e-5)
    assert np.abs(first[1] - word[1]).max() > 1 and np.abs(first[4] - order[4]).max() > 0.05
