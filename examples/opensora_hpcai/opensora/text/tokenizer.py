"""Tokenizer files of a local text-encoder folder; nothing is fetched, and no code from the folder runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mindone.checkpoint.files import read_json, refuse_stand_in
from mindone.checkpoint.tensors import one_line
from mindone.errors import UserError
from opensora.text.prompts import require_text

# What holds a vocabulary: without one, the hub's classes make an empty tokenizer and say nothing.
VOCABULARIES = (("tokenizer.json",), ("spiece.model",), ("vocab.json", "merges.txt"))
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")


class TextTokenizer:
    """Texts to token ids and masks, padded and cut to ``max_length``, special tokens included.

    Padding is the tokenizer's own ``pad_token`` if its files name one, else ``pad_token_id``: CLIP's config.json names
    another token than its tokenizer pads with.
    """

    def __init__(self, folder: str | Path, max_length: int, pad_token_id: int = 0):
        """
        Raises:
            UserError: the folder has no tokenizer that can be read.
        """
        self.folder, self.max_length, self.pad_token_id = Path(folder), max_length, pad_token_id
        _check_files(self.folder)
        if (self.folder / "tokenizer.json").is_file():
            self._encode = self._from_tokenizer_json()
        else:
            self._encode = self._from_hub_layout()

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Token ids (B, max_length) int32, mask (B, max_length) uint8 (1 = token), and each text's uncut length.

        Raises:
            UserError: a text has characters that cannot be written in UTF-8.
        """
        ids = np.full((len(texts), self.max_length), self.pad_token_id, np.int32)
        mask = np.zeros((len(texts), self.max_length), np.uint8)
        lengths = []
        for row, text in enumerate(texts):
            require_text(text, f"text {row + 1}")
            kept, length = self._encode(text)
            ids[row, : len(kept)] = kept
            mask[row, : len(kept)] = 1
            lengths.append(length)
        return ids, mask, lengths

    def _from_tokenizer_json(self) -> Callable[[str], tuple[list[int], int]]:
        from tokenizers import Tokenizer

        path = self.folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for whatever is wrong with the file
            raise UserError(f"{path} is not a readable tokenizer file: {error}") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length)
        self._pad_with(tokenizer.token_to_id(self._pad_token() or ""))

        def encode(text: str) -> tuple[list[int], int]:
            encoding = tokenizer.encode(text)
            cut = sum(len(part.ids) - sum(part.special_tokens_mask) for part in encoding.overflowing)
            return encoding.ids, len(encoding.ids) + cut

        return encode

    def _from_hub_layout(self) -> Callable[[str], tuple[list[int], int]]:
        if (self.folder / "spiece.model").is_file():
            _check_pieces(self.folder / "spiece.model")
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(self.folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers raises many kinds for unreadable files
            reason = one_line(" ".join(f"{type(error).__name__}: {error}".split()))
            raise UserError(f"the tokenizer in {self.folder} cannot be read ({reason})") from error
        self._pad_with(tokenizer.pad_token_id)

        def encode(text: str) -> tuple[list[int], int]:
            length = len(tokenizer(text)["input_ids"])
            return tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"], length

        return encode

    def _pad_with(self, token_id: int | None) -> None:
        self.pad_token_id = self.pad_token_id if token_id is None else token_id

    def _pad_token(self) -> str | None:
        """The pad token that the files beside tokenizer.json name."""
        for name in SETTINGS:
            if not (self.folder / name).is_file():
                continue
            token = read_json(self.folder / name, "tokenizer file").get("pad_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token is not None and not isinstance(token, str):
                raise UserError(f"{self.folder / name} names the pad_token {one_line(str(token))}; it has to be a text")
            if token:
                return token
        return None


def _check_files(folder: Path) -> None:
    """Names the file that a tokenizer lacks, or that only stands in for one."""
    if not any(all((folder / name).is_file() for name in names) for names in VOCABULARIES):
        half = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
        lacking = (
            half[0] if len(half) == 1 else "tokenizer.json (or spiece.model for T5, vocab.json and merges.txt for CLIP)"
        )
        raise UserError(f"the tokenizer in {folder} lacks {lacking}; copy it there from the published model")
    for name in (*sum(VOCABULARIES, ()), *SETTINGS):
        if (folder / name).is_file():
            refuse_stand_in(folder / name)


def _check_pieces(path: Path) -> None:
    if importlib.util.find_spec("sentencepiece") is None:
        raise UserError(
            f"{path} needs the package sentencepiece; pip install sentencepiece, or copy a tokenizer.json there"
        )
    from sentencepiece import SentencePieceProcessor

    try:
        SentencePieceProcessor().LoadFromSerializedProto(path.read_bytes())
    except (RuntimeError, OSError) as error:
        raise UserError(f"{path} is not a readable tokenizer file; copy or download it again") from error
