"""``opensora data collate`` and ``preprocess``: from MSR-VTT to an arrow data set, as the first release had it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mindone.checkpoint.atomic import atomic_folder
from mindone.checkpoint.digest import weights_digest
from mindone.data.table import says_something
from mindone.errors import UserError
from mindone.progress import progress_bar
from opensora import outputs
from opensora.config.data import IndexConfig
from opensora.config.msr_vtt import CollateConfig, PreprocessConfig, States
from opensora.data_tools.files import arrow_library
from opensora.data_tools.index import index
from opensora.data_tools.listing import CAPTION, VIDEO, Found, listed
from opensora.data_tools.table import PROBLEM, open_table
from opensora.embed.shared import Counts, in_batches
from opensora.model_folder import read_config, require_path
from opensora.start import start

if TYPE_CHECKING:
    from opensora.text.encoder import TextEncoder

logger = logging.getLogger(__name__)

ANNOTATIONS, VIDEOS, TABLE = "annotations.json", "videos", "videos.csv"
# What the annotations call the splits, and the first videos of them where they say nothing (Xu et al., 2016).
SPLITS = {"train": "train", "validate": "val", "val": "val", "test": "test"}
FIRST = {"test": 7010, "val": 6513, "train": 0}
VIDEO_FILE, STATES = "video_file", "text_latent_states"
ARROW = "data-00000-of-00001.arrow"

Pair = tuple[str, str]


# --- collate ---------------------------------------------------------------------------------------------------------


@dataclass
class Split:
    """The videos of a split with their captions, and which of them have no file."""

    captions: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def collate(config: CollateConfig) -> dict[str, int]:
    """Writes the splits and returns how many videos each has; videos are hard links, or copies on another disk.

    Raises:
        UserError: there are no annotations, or one names a split or video in a way that is not MSR-VTT's.
    """
    source, target = Path(config.data_dir), Path(config.output_dir)
    if not source.is_dir():
        raise UserError(f"data_dir={source} is not a folder; give the one in which the data set was unpacked")
    files, lists = _files_of(source, target)
    splits: dict[str, Split] = {}
    for found in _annotated(lists, source):
        name = os.path.basename(found.path)
        split = splits.setdefault(_split_of(found, name), Split())
        known = split.captions.setdefault(name, [])
        known += [caption for caption in found.captions if caption not in known]
        if name not in files and name not in split.missing:
            split.missing.append(name)
    for name, split in splits.items():
        _write_split(target / name, split, files)
    counts = {name: len(split.captions) for name, split in splits.items()}
    print(f"{target}: {', '.join(f'{count} videos of {name}' for name, count in counts.items())}")
    return counts


def _files_of(source: Path, target: Path) -> tuple[dict[str, Path], list[Path]]:
    """The videos by their names, and the JSON files, in a fixed order; ``target`` may lie inside and is left out."""
    videos, lists = {}, []
    for place, folders, names in os.walk(source):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(place, name).resolve() != target.resolve()
        )
        for name in sorted(name for name in names if not name.startswith(".")):
            if name.endswith(".mp4"):
                videos.setdefault(name, Path(place, name))
            elif name.endswith(".json"):
                lists.append(Path(place, name))
    return videos, lists


def _annotated(lists: Sequence[Path], root: Path) -> Iterator[Found]:
    reasons = []
    for path in lists:
        try:
            found = list(listed(path, "msrvtt", root))
        except UserError as error:
            reasons.append(str(error))
            continue
        yield from found
    if len(reasons) == len(lists):
        raise UserError(f"{root} has no annotations of MSR-VTT{': ' * bool(reasons)}{'; '.join(reasons)}")
    for reason in reasons:
        logger.warning("left out: %s", reason)


def _split_of(found: Found, name: str) -> str:
    said = (found.more or {}).get("split")
    if said:
        if said not in SPLITS:
            raise UserError(f"{name} is of the split {said}, but MSR-VTT has {', '.join(SPLITS)}")
        return SPLITS[said]
    number = name.removeprefix("video").removesuffix(".mp4")
    if not (number.isascii() and number.isdigit()):
        raise UserError(f"{name} says no split, and is not called after its number, as video7010 is")
    return next(split for split, first in FIRST.items() if int(number) >= first)


def _write_split(folder: Path, split: Split, files: dict[str, Path]) -> None:
    if split.missing:
        logger.warning(
            "%s: %d of %d videos have no file, such as %s; they stay in the list",
            folder.name,
            len(split.missing),
            len(split.captions),
            split.missing[0],
        )
    (folder / VIDEOS).mkdir(parents=True, exist_ok=True)
    for name in split.captions:
        if name in files:
            _link(files[name], folder / VIDEOS / name)
    entries = [{"file": name, "captions": texts} for name, texts in split.captions.items()]
    outputs.write_json(folder / ANNOTATIONS, entries)


def _link(source: Path, target: Path) -> None:
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    beside = target.with_name(f".{target.name}")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:
        shutil.copyfile(source, beside)
    os.replace(beside, target)


# --- preprocess ------------------------------------------------------------------------------------------------------


def preprocess(config: PreprocessConfig) -> Counts:
    """Writes the parts, each a folder that ``datasets.load_from_disk`` reads; complete ones are left as they are.

    A row has the path of its video and the text's states: (tokens, width) float32 lists of the tokens that are not
    padding, or with ``use_pooled_text`` a list of (width,).

    Raises:
        UserError: pyarrow, the encoder or the list is missing; no video can be used; found before texts are encoded.
    """
    start(config.runtime)
    arrow_library("Arrow data sets", "")
    source = require_path(config.text.text_model, "the text encoder's files", "text_model")
    if config.text.use_pooled_text and "d_model" in read_config(source):
        raise UserError(f"use_pooled_text: {source} is T5, which has no pooled vector; give a CLIP text encoder")
    folder = Path(config.data.output_dir)
    pairs = _usable(config)
    states = outputs.plain(config.text) | {"text_model": weights_digest(source)}
    counts, todo = Counts(), []
    for number, rows in enumerate(np.array_split(np.arange(len(pairs)), config.data.num_bins)):
        part = [pairs[row] for row in rows]
        label = hashlib.sha256(json.dumps([part, states], sort_keys=True).encode()).hexdigest()[:16]
        path = folder / f"part-{number:05d}"
        if _label_of(path) == label:
            counts.skipped += 1
        else:
            todo.append((path, part, label))
    if todo:
        _encode_parts(config.text, todo, counts)
    _say_what_else_is_there(folder, config.data.num_bins)
    print(f"{folder}: {len(pairs)} texts in {config.data.num_bins} parts ({counts})")
    return counts


def _usable(config: PreprocessConfig) -> list[Pair]:
    """Video and caption of each row that can be used; ``videos.csv`` tells of all."""
    data = config.data
    table = Path(data.output_dir) / TABLE
    index(
        IndexConfig(output=str(table), inputs=[data.captions], video_folder=data.video_dir, workers=data.workers),
    )
    pairs, long, silent, bad = [], 0, 0, 0
    for row in open_table(table, columns=[VIDEO, CAPTION]):
        if row[PROBLEM]:
            bad += 1
        elif float(row["num_frames"] or 0) > data.max_frames:
            long += 1
        elif not says_something(row[CAPTION]):
            silent += 1
        else:
            pairs.append((row[VIDEO], row[CAPTION]))
    long_one = f"have more than {data.max_frames} frames"
    for count, why in ((bad, "have a problem"), (long, long_one), (silent, "have no text")):
        if count:
            logger.warning("%d rows are left out: they %s (%s)", count, why, table)
    if not pairs:
        raise UserError(f"no row of {table} can be used; its column {PROBLEM} says why")
    return pairs


def _label_of(path: Path) -> str | None:
    """What a complete part was made from."""
    try:
        return json.loads((path / "state.json").read_text())["_fingerprint"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _encode_parts(states: States, todo: Sequence[tuple[Path, list[Pair], str]], counts: Counts) -> None:
    from opensora.text.encoder import TextEncoder

    encoder = TextEncoder.from_folder(
        states.text_model, states.max_length, states.dtype, states.batch_size, option="text_model"
    )
    with progress_bar("encode texts", total=sum(len(part) for _, part, _ in todo)) as bar:
        for path, part, label in todo:
            with atomic_folder(path) as beside:
                _write_part(beside, encoder, part, states, bar.update)
                _describe(beside, label)
            counts.written += 1


def _write_part(folder: Path, encoder: TextEncoder, part: Sequence[Pair], states: States, done) -> None:
    arrow = arrow_library("Arrow data sets", "")
    vector = arrow.list_(arrow.float32())
    kind = vector if states.use_pooled_text else arrow.list_(vector)
    schema = arrow.schema({VIDEO_FILE: arrow.string(), STATES: kind})
    with open(folder / ARROW, "wb") as file, arrow.ipc.new_stream(file, schema) as stream:
        for rows in in_batches(part, states.batch_size):
            videos, texts = zip(*rows)
            found = encoder.encode(texts)
            if states.use_pooled_text:
                values = list(found.pooled)
            else:
                lengths = found.mask.sum(1)
                values = [list(each[:length]) for each, length in zip(found.embeddings, lengths)]
            columns = [arrow.array(videos, arrow.string()), arrow.array(values, kind)]
            stream.write_batch(arrow.record_batch(columns, schema))
            done(len(rows))


def _describe(folder: Path, label: str) -> None:
    """The files that make a folder a data set on disk of the library ``datasets``."""
    outputs.write_json(folder / "dataset_info.json", {"citation": "", "description": "", "homepage": "", "license": ""})
    state = {
        "_data_files": [{"filename": ARROW}],
        "_fingerprint": label,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    outputs.write_json(folder / "state.json", state)


def _say_what_else_is_there(folder: Path, parts: int) -> None:
    others = sorted(path.name for path in folder.glob("part-*") if path.name not in _names(parts))
    if others:
        logger.warning("%s has parts of an earlier run, too, such as %s; remove them", folder, others[0])


def _names(parts: int) -> set[str]:
    return {f"part-{number:05d}" for number in range(parts)}
