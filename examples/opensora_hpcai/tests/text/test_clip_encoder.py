"""A CLIP folder in the hub's layout: tokenizer files, config.json of the whole CLIP, sharded weights."""

import json

import mindspore as ms
import numpy as np
import pytest

from mindone.checkpoint import network_tensors, save_safetensors
from mindone.errors import UserError
from mindone.models.clip import CLIPTextConfig, CLIPTextEncoder
from opensora.text.encoder import TextEncoder
from opensora.text.tokenizer import TextTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
START, END = len(VOCABULARY) - 2, len(VOCABULARY) - 1
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 12,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
    "hidden_act": "quick_gelu",
    "eos_token_id": 2,
    "pad_token_id": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    files = {
        "config.json": {"model_type": "clip", "text_config": SIZES, "vision_config": {}},
        "vocab.json": {token: i for i, token in enumerate(VOCABULARY)},
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    network, rng = CLIPTextEncoder(CLIPTextConfig.from_dict(SIZES)), np.random.default_rng(0)
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(rng.normal(size=parameter.shape).astype(np.float32)))
    tensors = dict(network_tensors(network).items())
    tensors["text_model.embeddings.position_ids"] = np.arange(8)[None]
    tensors["vision_model.embeddings.class_embedding"] = np.zeros(4, np.float32)
    tensors["logit_scale"] = np.float32(4.6)
    names, weight_map = list(tensors), {}
    for i, part in enumerate((names[::2], names[1::2])):
        shard = f"model-{i + 1:05d}-of-00002.safetensors"
        save_safetensors(folder / shard, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def _ids(*tokens, length=8):
    ids = [START, *(VOCABULARY.index(token) for token in tokens), END]
    return ids + [END] * (length - len(ids))


def test_texts_become_hidden_states_and_pooled_vectors(folder, mode):
    encoder = TextEncoder.from_folder(folder, 8, batch_size=2, expected_dim=12, attend_to_padding=True)
    encoded = encoder.encode(["a red", "", "Red cab"])
    expected = [_ids("a</w>", "red</w>"), _ids(), _ids("red</w>", "c", "a", "b</w>")]
    assert encoded.tokens.tolist() == expected
    assert encoded.mask.sum(1).tolist() == [4, 2, 6]
    assert encoded.embeddings.shape == (3, 8, 12)
    np.testing.assert_array_equal(encoded.pooled, encoded.embeddings[np.arange(3), [3, 1, 5]])
    if mode == "graph":
        masked = TextEncoder.from_folder(folder, 8, batch_size=3).encode(["a red", "", "Red cab"])
        np.testing.assert_allclose(masked.pooled, encoded.pooled, rtol=1e-4, atol=1e-5)


def test_a_tokenizer_json_gives_the_same_tokens_and_padding(folder, tmp_path):
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(str(folder), local_files_only=True).save_pretrained(str(tmp_path))
    assert (tmp_path / "tokenizer.json").is_file()
    texts = ["a red", "", "abcdefgh abcdefgh"]
    for ours, theirs in zip(TextTokenizer(tmp_path, 6)(texts), TextTokenizer(folder, 6)(texts)):
        assert np.array_equal(ours, theirs)


def test_more_tokens_than_positions_are_refused(folder):
    with pytest.raises(UserError, match="8 tokens at most, not 77"):
        TextEncoder.from_folder(folder, 77)
