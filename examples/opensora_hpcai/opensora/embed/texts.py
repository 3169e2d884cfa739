"""Caches of text embeddings: what ``infer_t5.py`` does."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindone.checkpoint.digest import weights_digest
from mindone.data.table import VideoRow, read_video_table, shard
from mindone.errors import UserError
from opensora.data import cache
from opensora.embed.shared import Counts, Progress, finish, in_batches, left_to_do, save_settings
from opensora.failures import within_memory
from opensora.families import Family, settle
from opensora.families.base import PromptRules
from opensora.model_folder import require_path
from opensora.start import start
from opensora.text.prompts import collect_prompts

if TYPE_CHECKING:
    from opensora.config import EmbedTextConfig
    from opensora.config.embed import Captions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caption:
    """A text and the cache file of its embeddings; a prompt's arrays have a batch dimension, a table's have none.

    ``made_from`` says the text as it is given and as it is encoded, the settings, and the encoder.
    """

    path: Path
    batch_dim: bool
    made_from: Mapping[str, Any]


def embed_texts(config: EmbedTextConfig) -> Counts:
    """Writes the text embeddings of a table's captions or of prompts, one file each.

    Raises:
        UserError: nothing to encode, something is missing, or files were made from something else; found before the
            encoder is loaded where possible.
    """
    current = start(config.runtime)
    family, config = settle(config, config.model.model_version)
    folder = config.cache.output_path
    require_path(config.text.t5_model_name_or_path, "the text encoder's files", "t5_model_name_or_path")
    all_captions = _captions(config, family)
    captions = shard(all_captions, current.rank, current.world_size)
    todo = left_to_do(captions, cache.TEXT_KEYS, config.cache)
    save_settings(config, folder, "embed_text.yaml")
    counts = Counts(skipped=len(captions) - len(todo))
    if todo:
        _encode(config, family, todo, counts)
    return finish(counts, folder)


def _captions(config: EmbedTextConfig, family: Family) -> list[Caption]:
    """What is to be encoded, in the order of the table or of the list."""
    folder = Path(config.cache.output_path)
    rules = PromptRules(cleaning=config.data.caption_cleaning)
    settings = {
        "model_max_length": config.text.model_max_length or family.model_max_length,
        "dtype": config.text.t5_dtype,
        "weights": weights_digest(config.text.t5_model_name_or_path),
    }

    def caption(path: Path, text: str, batch_dim: bool) -> Caption:
        encoded = family.prepare_prompt(text, rules)
        return Caption(path, batch_dim, {"text": text, "encoded": encoded, **settings})

    if not config.data.csv_path:
        prompts = collect_prompts(config.data.captions, config.data.prompt_path)
        paths = [cache.prompt_path(folder, index, prompt) for index, prompt in enumerate(prompts)]
        _say_what_else_is_there(folder, paths)
        return [caption(path, prompt, True) for path, prompt in zip(paths, prompts)]
    if config.data.captions or config.data.prompt_path:
        raise UserError("csv_path and prompts are given; a cache is made of either a table or prompts")
    return [caption(cache.cache_path(folder, row.relative), row.caption, False) for row in _rows(config.data)]


def _say_what_else_is_there(folder: Path, paths: Sequence[Path]) -> None:
    """A list of prompts is all that its folder holds, so what is left of another list would count as well."""
    others = sorted(set(folder.glob("[0-9]*.npz")) - set(paths))
    if others:
        logger.warning(
            "%s has %d files of other prompts, such as %s; readers of the folder take them for prompts of this list",
            folder,
            len(others),
            others[0].name,
        )


def _rows(data: Captions) -> list[VideoRow]:
    """The rows of the table, each video once.

    Raises:
        UserError: two rows would share a cache file but not its content.
    """
    rows = read_video_table(data.csv_path, None, data.video_column, data.caption_column, data.filter_data)
    cache.require_distinct(rows, data.csv_path)
    unique: dict[str, VideoRow] = {}
    for row in rows:
        first = unique.setdefault(row.relative, row)
        if first.caption != row.caption:
            raise UserError(
                f"{data.csv_path}, lines {first.line} and {row.line}: {row.relative} has two captions, but there is "
                "one cache file per video; keep one of the rows, or give the second a copy of the video"
            )
    if len(unique) < len(rows):
        logger.warning("%d rows name a video again, with the same caption", len(rows) - len(unique))
    return list(unique.values())


def _encode(config: EmbedTextConfig, family: Family, captions: Sequence[Caption], counts: Counts) -> None:
    """Encodes every different text once and writes it to all the files that want it."""
    wanted: dict[str, list[Caption]] = {}
    for caption in captions:
        wanted.setdefault(caption.made_from["encoded"], []).append(caption)
    batch_size = min(config.data.batch_size, len(wanted))
    conditioner = family.conditioner(config.text, batch_size=batch_size)
    with Progress("encode texts", len(captions), counts) as progress:
        for texts in in_batches(list(wanted), batch_size):
            with within_memory(f"encoding {len(texts)} texts at once", "use a smaller batch_size or t5_dtype fp16"):
                arrays = conditioner.for_cache(texts)
            for row, text in enumerate(texts):
                for caption in wanted[text]:
                    own = {name: values[row] for name, values in arrays.items()}
                    cache.write_text(caption.path, own, caption.batch_dim, caption.made_from)
                    progress.wrote(caption.path)
