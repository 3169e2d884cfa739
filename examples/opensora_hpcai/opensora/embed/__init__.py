"""Caches of text embeddings and of latents, and videos from latents: what the ``infer_*`` scripts do."""

from opensora.embed.decode import decode_files
from opensora.embed.texts import embed_texts
from opensora.embed.videos import embed_videos

__all__ = ["decode_files", "embed_texts", "embed_videos"]
