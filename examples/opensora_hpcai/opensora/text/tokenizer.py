"""Tokenizer files of a local text-encoder folder; nothing is fetched, and no code from the folder runs."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mindone.errors import UserError
from opensora.text.prompts import require_text

HUB_FILES = ("spiece.model", "tokenizer_config.json", "vocab.json")


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
        if not any((self.folder / name).is_file() for name in HUB_FILES):
            raise UserError(
                f"{self.folder} has no tokenizer; copy the model's tokenizer.json (or spiece.model and "
                "tokenizer_config.json) there"
            )
        if (self.folder / "spiece.model").is_file() and importlib.util.find_spec("sentencepiece") is None:
            raise UserError(
                f"{self.folder}/spiece.model needs the package sentencepiece; pip install sentencepiece, or copy a "
                "tokenizer.json there"
            )
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(self.folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers raises many kinds for unreadable files
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
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
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            try:
                token = json.loads((self.folder / name).read_text(encoding="utf-8")).get("pad_token")
            except FileNotFoundError:
                continue
            except (OSError, ValueError, AttributeError) as error:
                raise UserError(f"{self.folder / name} is not a readable JSON object: {error}") from error
            if token:
                return token["content"] if isinstance(token, dict) else token
        return None
