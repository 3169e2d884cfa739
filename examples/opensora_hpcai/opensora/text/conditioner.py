"""Texts to what a denoiser is told: named arrays, one row per text, from text encoders or from cache files.

A conditioner loads its encoders when they are first needed and forgets them with `release`.

Legend: `N` texts, `L` tokens, `D` width of the embeddings.
"""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mindone.errors import UserError
from mindone.parallel.mesh import Mesh
from opensora.data.cache import TextPair, read_text
from opensora.text.encoder import TextEmbeddings, TextEncoder

Arrays = dict[str, np.ndarray]


class Conditioner(ABC):
    """Text conditioning of one family.

    Attributes:
        mesh: ranks that the encoders' weights are spread over, see `TextEncoder.from_folder`; set before the first text
            is encoded.
    """

    mesh: Mesh | None = None

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Arrays:
        """Arrays of prepared texts, N rows each; a notice names texts that had to be cut."""

    @abstractmethod
    def for_cache(self, texts: Sequence[str]) -> Arrays:
        """What a cache keeps of prepared texts, N rows each; see `opensora.data.cache.write_text`."""

    @abstractmethod
    def fit(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Arrays from a cache, as `encode` would have made them: padded or cut to the denoiser's tokens.

        Raises:
            UserError: they belong to another denoiser.
        """

    @abstractmethod
    def read(self, path: Path | TextPair) -> Arrays:
        """Arrays of one cache file, with one row, fitted."""

    @abstractmethod
    def release(self) -> None:
        """Frees the memory of the encoders."""


class T5Conditioner(Conditioner):
    """T5 embeddings: ``text`` (N, L, D) float32 and ``text_mask`` (N, L) int32, 1 = valid.

    Args:
        folder: of the encoder, needed by `encode` only.
        length: L.
        width: D; 0 takes the encoder's.
        dtype: precision of the encoder.
        batch_size: texts that are encoded at once.
    """

    def __init__(self, folder: str | None, length: int, width: int = 0, dtype: str = "fp32", batch_size: int = 1):
        self.folder, self.length, self.width, self.dtype, self.batch_size = folder, length, width, dtype, batch_size
        self._encoder: TextEncoder | None = None

    def encode(self, texts: Sequence[str]) -> Arrays:
        found = self._embed(texts)
        return {"text": found.embeddings, "text_mask": found.mask.astype(np.int32)}

    def for_cache(self, texts: Sequence[str]) -> Arrays:
        found = self._embed(texts)
        return {"text_emb": found.embeddings, "mask": found.mask, "tokens": found.tokens}

    def _embed(self, texts: Sequence[str]) -> TextEmbeddings:
        if self._encoder is None:
            self._encoder = TextEncoder.from_folder(
                self.folder, self.length, self.dtype, self.batch_size, self.width, mesh=self.mesh
            )
        return self._encoder.encode(texts)

    def fit(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        text, mask = arrays["text"], arrays["text_mask"]
        if self.width and text.shape[2] != self.width:
            raise UserError(
                f"the text embeddings have width {text.shape[2]}, but the denoiser takes caption_channels="
                f"{self.width}; use the text encoder that belongs to it"
            )
        if mask[:, self.length :].any():
            raise UserError(
                f"the text embeddings have up to {int(mask.sum(1).max())} tokens, but the denoiser takes "
                f"model_max_length={self.length}; encode the captions with that length"
            )
        missing = max(0, self.length - mask.shape[1])
        text = np.pad(text[:, : self.length], ((0, 0), (0, missing), (0, 0)))
        mask = np.pad(mask[:, : self.length], ((0, 0), (0, missing)))
        return {"text": np.asarray(text, np.float32), "text_mask": mask.astype(np.int32)}

    def read(self, path: Path | TextPair) -> Arrays:
        entry = read_text(path)
        try:
            return self.fit({"text": entry.text_emb[None], "text_mask": entry.mask[None]})
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def release(self) -> None:
        self._encoder = None
        gc.collect()


class ClipConditioner(T5Conditioner):
    """CLIP's vector of the whole text as its only token, or its tokens: the arrays of T5, and the arguments but L.

    Args:
        tokens: give the tokens, those of padding with mask 0. Attention is causal, so that padding, which comes last,
            makes no difference to any of it.
    """

    max_length = 77

    def __init__(
        self, folder: str | None, width: int = 0, dtype: str = "fp32", batch_size: int = 1, tokens: bool = False
    ):
        super().__init__(folder, self.max_length if tokens else 1, width, dtype, batch_size)
        self.tokens = tokens

    def _embed(self, texts: Sequence[str]) -> TextEmbeddings:
        if self._encoder is None:
            self._encoder = TextEncoder.from_folder(
                self.folder,
                self.max_length,
                self.dtype,
                self.batch_size,
                self.width,
                attend_to_padding=True,
                option="clip_model_name_or_path",
            )
        found = self._encoder.encode(texts)
        if self.tokens:
            return found
        if found.pooled is None:
            raise UserError(
                f"{self.folder} has no vector of a whole text; give the folder of a CLIP text encoder as "
                "--clip_model_name_or_path"
            )
        return TextEmbeddings(found.pooled[:, None], np.ones((len(texts), 1), np.uint8), found.tokens)


class ClassConditioner(Conditioner):
    """Texts that are numbers of classes: ``text`` (N, 1, 1) float32, and a mask of ones as T5 has it.

    Args:
        num_classes: texts are 0 to one below it.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    def encode(self, texts: Sequence[str]) -> Arrays:
        labels = np.array([self._label(text) for text in texts], np.float32)
        return {"text": labels.reshape(-1, 1, 1), "text_mask": np.ones((len(texts), 1), np.int32)}

    def for_cache(self, texts: Sequence[str]) -> Arrays:
        raise UserError("classes are not encoded, so they need no cache; leave text_embed_folder out")

    def fit(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        if arrays["text"].shape[1:] != (1, 1):
            raise UserError("the denoiser is told a class, not a text; leave text_embed_folder out")
        return dict(arrays)

    def read(self, path: Path | TextPair) -> Arrays:
        raise UserError(f"{path}: the denoiser is told a class, not a text; leave text_embed_folder out")

    def release(self) -> None:
        """There is no encoder."""

    def _label(self, text: str) -> int:
        if not text.strip().isdecimal() or int(text) >= self.num_classes:
            raise UserError(
                f"{text!r} is no class of this denoiser, which is told a number from 0 to {self.num_classes - 1}; give "
                "numbers as prompts, and as captions of the table (--caption_column)"
            )
        return int(text)


class T5ClipConditioner(Conditioner):
    """T5 embeddings ``text`` (N, L, D) and pooled CLIP vectors ``pooled`` (N, D'), float32; padding is attended to.

    Args:
        t5_folder, clip_folder: of the encoders, needed by `encode` only.
        length: L.
        widths: D and D'; 0 takes the encoder's.
        dtype: precision of the encoders.
        batch_size: texts that are encoded at once.
    """

    clip_length = 77

    def __init__(
        self,
        t5_folder: str | None,
        clip_folder: str | None,
        length: int,
        widths: tuple[int, int] = (0, 0),
        dtype: str = "fp32",
        batch_size: int = 1,
    ):
        self.folders, self.length, self.widths = (t5_folder, clip_folder), length, widths
        self.dtype, self.batch_size = dtype, batch_size
        self._encoders: list[TextEncoder] = []

    def encode(self, texts: Sequence[str]) -> Arrays:
        t5, clip = self._embed(texts)
        return {"text": t5.embeddings, "pooled": clip.pooled}

    def for_cache(self, texts: Sequence[str]) -> Arrays:
        t5, clip = self._embed(texts)
        return {"text_emb": t5.embeddings, "mask": t5.mask, "tokens": t5.tokens, "pooled": clip.pooled}

    def _embed(self, texts: Sequence[str]) -> tuple[TextEmbeddings, TextEmbeddings]:
        if not self._encoders:
            options = ("t5_model_name_or_path", "clip_model_name_or_path")
            lengths = (self.length, self.clip_length)
            parts = zip(self.folders, lengths, self.widths, options, (True, False))
            self._encoders = [
                TextEncoder.from_folder(folder, length, self.dtype, self.batch_size, width, attend, option, self.mesh)
                for folder, length, width, option, attend in parts
            ]
        t5, clip = (encoder.encode(texts) for encoder in self._encoders)
        return t5, clip

    def fit(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        text, pooled = np.asarray(arrays["text"], np.float32), np.asarray(arrays["pooled"], np.float32)
        for what, width, wanted in (("T5", text.shape[2], self.widths[0]), ("CLIP", pooled.shape[1], self.widths[1])):
            if wanted and width != wanted:
                raise UserError(
                    f"the {what} embeddings have width {width}, but the denoiser takes {wanted}; "
                    "use the encoder that belongs to it"
                )
        if text.shape[1] != self.length:
            # Padding is attended to, so another length is another text.
            raise UserError(
                f"the T5 embeddings have {text.shape[1]} tokens, but the denoiser takes model_max_length="
                f"{self.length}; encode the captions with that length"
            )
        return {"text": text, "pooled": pooled}

    def read(self, path: Path | TextPair) -> Arrays:
        """A cache with both encoders' arrays; see `opensora.data.cache.read_text`."""
        entry = read_text(path)
        if entry.pooled is None:
            raise UserError(f"{path} has no pooled CLIP vector; encode the captions for model_version v2.0")
        try:
            return self.fit({"text": entry.text_emb[None], "pooled": entry.pooled[None]})
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def release(self) -> None:
        self._encoders = []
        gc.collect()


def stacked(rows: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
    """Several arrays of one conditioner, one after the other."""
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def picked(arrays: Mapping[str, np.ndarray], rows: Sequence[int]) -> Arrays:
    """Some rows of a conditioner's arrays."""
    return {name: values[list(rows)] for name, values in arrays.items()}
