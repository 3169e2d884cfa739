"""A CLIP text encoder small enough to ship: random, frozen, with a tokenizer of single characters, as on the hub.

Open-Sora 2.0 takes one vector per text from CLIP beside the token embeddings of T5. A random transformer's vector tells
texts apart, which is all that the toy world's denoiser needs of it. Every text of the toy world fits into 77 tokens.
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np

from mindone import runtime
from mindone.checkpoint import save_safetensors
from opensora.config.toy import TinyClipConfig
from opensora.toy.tiny_t5 import write_json, write_text

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"

TEXT_CONFIG = {
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 77,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 1,
}
"""Fields of ``text_config`` in the hub's config.json; ``vocab_size`` follows from the tokenizer."""


def make_tiny_clip(config: TinyClipConfig) -> None:
    """Writes the encoder and says where."""
    print(f"wrote {write_tiny_clip(config.output, config.seed)}")


def write_tiny_clip(folder: str | Path, seed: int = 0) -> Path:
    """Writes config.json, model.safetensors and the tokenizer's files; equal seeds give equal bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary()
    config = {**TEXT_CONFIG, "vocab_size": len(tokens)}
    special = {"bos_token": BEGIN} | dict.fromkeys(("eos_token", "unk_token", "pad_token"), END)
    write_json(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    write_text(folder / "merges.txt", "#version: 0.2")
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    )
    write_json(folder / "config.json", {"model_type": "clip", "text_config": config})
    save_safetensors(folder / "model.safetensors", random_weights(config, seed), {"format": "pt"})
    return folder


def vocabulary() -> list[str]:
    """Single characters, within and at the end of a word; the last token has the largest id, where CLIP pools."""
    characters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    return [*characters, *(character + WORD_END for character in characters), BEGIN, END]


def random_weights(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Weights under the hub's names, float32.

    Positions are as strong as tokens, and matrices keep the size of what goes through them, so that the order of
    characters shows in the pooled vector.
    """
    rng = runtime.stream(seed, "tiny_clip")
    width, hidden = config["hidden_size"], config["intermediate_size"]

    def normal(*shape: int, std: float) -> np.ndarray:
        return (std * rng.standard_normal(shape)).astype(np.float32)

    def linear(name: str, outputs: int, inputs: int) -> dict[str, np.ndarray]:
        return {
            f"{name}.weight": normal(outputs, inputs, std=inputs**-0.5),
            f"{name}.bias": np.zeros(outputs, np.float32),
        }

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}

    weights = {
        "text_model.embeddings.token_embedding.weight": normal(config["vocab_size"], width, std=1.0),
        "text_model.embeddings.position_embedding.weight": normal(config["max_position_embeddings"], width, std=1.0),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"text_model.encoder.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            weights |= linear(f"{layer}.self_attn.{part}", width, width)
        weights |= linear(f"{layer}.mlp.fc1", hidden, width) | linear(f"{layer}.mlp.fc2", width, hidden)
        weights |= norm(f"{layer}.layer_norm1") | norm(f"{layer}.layer_norm2")
    return weights | norm("text_model.final_layer_norm")
