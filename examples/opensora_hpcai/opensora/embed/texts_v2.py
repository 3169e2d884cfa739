"""Text embeddings of one encoder as ``.npy`` files: what ``scripts/v2.0/text_embedding.py`` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mindone.data.table import read_header, read_table, read_video_table, shard
from mindone.data.write import slug
from mindone.errors import UserError
from opensora import outputs
from opensora.config.v2 import CLIP_TOKENS
from opensora.embed.shared import Counts, Progress, finish, in_batches, save_settings
from opensora.families.v2_0 import FAMILY, prompt_text
from opensora.model_folder import read_config, require_path
from opensora.start import start
from opensora.text.encoder import TextEncoder
from opensora.text.prompts import read_prompts, require_text

if TYPE_CHECKING:
    from opensora.config import EmbedTextV2Config

SETTINGS = "text_embedding.yaml"


def embed_texts_v2(config: EmbedTextV2Config) -> Counts:
    """Writes one file per prompt: (L, D) float32 of T5, with padding, or CLIP's (D,) vector of the whole text.

    Files that are there already are replaced.

    Raises:
        UserError: no encoder, no prompts, or files of other prompts in the folder; found before the encoder is loaded.
    """
    current = start(config.env)
    folder = Path(config.output_path)
    source = require_path(config.model.from_pretrained, "the text encoder's files", "model.from_pretrained")
    files = prompt_files(config)
    _refuse_others(folder, list(files))
    save_settings(config, folder, SETTINGS)
    todo = shard(list(files.items()), current.rank, current.world_size)
    counts = Counts()
    is_t5 = "d_model" in read_config(source)
    length = config.model.max_length or (FAMILY.model_max_length if is_t5 else CLIP_TOKENS)
    batch_size = max(1, min(config.batch_size, len(todo)))
    encoder = TextEncoder.from_folder(source, length, config.model.dtype, batch_size, 0, is_t5, "model.from_pretrained")
    with Progress("encode texts", len(todo), counts) as progress:
        for part in in_batches(todo, batch_size):
            found = encoder.encode([prompt_text(text, config.fps, config.motion_score) for _, text in part])
            for (path, _), array in zip(part, found.embeddings if is_t5 else found.pooled):
                path.parent.mkdir(parents=True, exist_ok=True)
                outputs.write_array(path, array)
                progress.wrote(path)
    return finish(counts, folder)


def prompt_files(config: EmbedTextV2Config) -> dict[Path, str]:
    """The file of each prompt: named after its video if the table has videos, else by number and first words.

    Raises:
        UserError: no such file, no prompt in it, or two rows with one name.
    """
    folder, source = Path(config.output_path), config.prompts_file
    video, caption = config.column_names
    is_table = bool(source) and source.lower().endswith(".csv")
    if is_table and video in read_header(source):
        return _beside_videos(folder, source, video, caption)
    if is_table:
        prompts = [text for text in read_table(source, [caption]).column(caption) if text]
    else:
        prompts = read_prompts(source) if source else config.prompts
    if not prompts:
        raise UserError(f"{source} has no text in its column {caption}")
    for number, prompt in enumerate(prompts, start=1):
        require_text(prompt, f"prompt {number}")
    return {folder / f"{number:03d}-{slug(prompt)}.npy": prompt for number, prompt in enumerate(prompts)}


def _beside_videos(folder: Path, source: str, video: str, caption: str) -> dict[Path, str]:
    files: dict[Path, str] = {}
    for row in read_video_table(source, None, video, caption):
        path = (folder / row.relative).with_suffix(".npy")
        if path in files:
            raise UserError(f"{source}, line {row.line}: an earlier row has the file {path.name}, too; rename one")
        files[path] = row.caption
    return files


def _refuse_others(folder: Path, files: list[Path]) -> None:
    """Sampling takes all files of a folder in their order, so those of another list would shift the prompts."""
    others = sorted(set(folder.rglob("*.npy")) - set(files))
    if others:
        raise UserError(
            f"output_path={folder} has embeddings of other prompts, such as {others[0].name}; give another folder, "
            "or remove them"
        )
