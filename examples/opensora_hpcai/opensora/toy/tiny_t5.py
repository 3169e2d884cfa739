"""A T5 encoder small enough to ship: random, frozen, with a real tokenizer, in the hub's folder layout.

A random transformer keeps which words a text has and in which order, and the denoiser learns to read that. Its
tokenizer knows the words of the toy world as whole pieces, spells other words in characters, and anything else in
bytes, so every prompt has tokens.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import numpy as np

from mindone import runtime
from mindone.checkpoint import save_safetensors
from mindone.checkpoint.atomic import atomic_write
from opensora.config.toy import TinyT5Config
from opensora.toy.combinations import scenes
from opensora.toy.world import captions

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
OTHER_WORDS = ("aesthetic", "motion", "camera", "score", "static", "thing", "shape", "and", "of", "in", "on", "with")

CONFIG = {
    "architectures": ["T5EncoderModel"],
    "d_ff": 128,
    "d_kv": 16,
    "d_model": 64,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.0,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-6,
    "model_type": "t5",
    "num_heads": 4,
    "num_layers": 2,
    "pad_token_id": 0,
    "relative_attention_max_distance": 32,
    "relative_attention_num_buckets": 16,
    "tie_word_embeddings": False,
    "use_cache": False,
}
"""Fields of the hub's config.json; ``vocab_size`` follows from the tokenizer."""


def make_tiny_t5(config: TinyT5Config) -> None:
    """Writes the encoder and says where."""
    print(f"wrote {write_tiny_t5(config.output, config.seed)}")


def write_tiny_t5(folder: str | Path, seed: int = 0) -> Path:
    """Writes config.json, model.safetensors and the tokenizer's files; equal seeds give equal bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    config = {**CONFIG, "vocab_size": tokenizer.get_vocab_size()}
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    special = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    settings = {**special, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, "extra_ids": 0}
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "config.json", config)
    save_safetensors(folder / "model.safetensors", random_weights(config, seed), {"format": "pt"})
    return folder


def write_json(path: Path, values: dict) -> None:
    """A file of the hub's layout, the same bytes for the same values."""
    write_text(path, json.dumps(values, indent=2, sort_keys=True))


def write_text(path: Path, text: str) -> None:
    """A whole file, with a line break at its end."""
    with atomic_write(path) as file:
        file.write(text.encode() + b"\n")


def build_tokenizer():
    """The `tokenizers.Tokenizer`: T5's kind (unigram pieces that begin with ``▁`` at a word, ``</s>`` appended)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram(pieces(), unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    tokenizer.add_special_tokens([PAD, END, UNKNOWN])
    return tokenizer


def pieces() -> list[tuple[str, float]]:
    """Vocabulary with log-probabilities: the longer a piece, the cheaper per character, so whole words win."""
    words = sorted({word for scene in scenes("all") for text in captions(scene) for word in text.split()})
    words += [word for word in OTHER_WORDS if word not in words]
    characters = [*string.ascii_letters, *string.digits, *string.punctuation]
    return [
        *[(token, 0.0) for token in (PAD, END, UNKNOWN)],
        *[(f"▁{word}", -5.0) for word in words if len(word) > 1],
        ("▁", -8.0),
        *[(f"▁{character}", -9.0) for character in characters],
        *[(character, -10.0) for character in characters],
        *[(f"<0x{byte:02X}>", -20.0) for byte in range(256)],
    ]


def random_weights(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Weights under the hub's names, float32, with the standard deviations T5 is initialised with.

    Only the relative positions are stronger than there (1.5), so that heads look at different neighbours and the order
    of the words shows in the output.
    """
    rng = runtime.stream(seed, "tiny_t5")
    width, inner, hidden = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]

    def normal(*shape: int, std: float) -> np.ndarray:
        return (std * rng.standard_normal(shape)).astype(np.float32)

    weights = {"shared.weight": normal(config["vocab_size"], width, std=1.0)}
    for index in range(config["num_layers"]):
        attention, feed_forward = (f"encoder.block.{index}.layer.{part}" for part in (0, 1))
        weights |= {
            f"{attention}.SelfAttention.q.weight": normal(inner, width, std=(width * config["d_kv"]) ** -0.5),
            f"{attention}.SelfAttention.k.weight": normal(inner, width, std=width**-0.5),
            f"{attention}.SelfAttention.v.weight": normal(inner, width, std=width**-0.5),
            f"{attention}.SelfAttention.o.weight": normal(width, inner, std=inner**-0.5),
            f"{attention}.layer_norm.weight": np.ones(width, np.float32),
            f"{feed_forward}.DenseReluDense.wi_0.weight": normal(hidden, width, std=width**-0.5),
            f"{feed_forward}.DenseReluDense.wi_1.weight": normal(hidden, width, std=width**-0.5),
            f"{feed_forward}.DenseReluDense.wo.weight": normal(width, hidden, std=hidden**-0.5),
            f"{feed_forward}.layer_norm.weight": np.ones(width, np.float32),
        }
    buckets = (config["relative_attention_num_buckets"], config["num_heads"])
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return {**weights, name: normal(*buckets, std=1.5), "encoder.final_layer_norm.weight": np.ones(width, np.float32)}
