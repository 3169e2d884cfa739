"""What is asked for, one request per prompt: the line's own settings, and the command's where it says nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mindone.data.write import slug
from mindone.errors import UserError
from mindone.parallel.mesh import make_mesh
from opensora.conditions.given import Asked, Conditions, Length
from opensora.config import GenerateConfig
from opensora.data.cache import TextPair, prompt_files, read_text
from opensora.families import Family
from opensora.generate.shapes import frames_decoded, size_of, warn_if_rounded
from opensora.noise import InitialNoise, Mixed, parse_noise
from opensora.sizes import VideoSize
from opensora.text.extend import extend_prompt
from opensora.text.lines import Line
from opensora.text.loops import check_loops, split_loops
from opensora.text.prompts import collect_lines

if TYPE_CHECKING:
    from opensora.models.autoencoder import Autoencoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A prompt, the stem of its files, and what its videos are.

    ``size`` is frames, height and width in pixels, ``latent_shape`` (C, T, H, W). ``cache`` is the file of an embedding
    cache if the prompt comes from one, ``negative_cache`` that of its negative prompt. ``samples`` are
    made of it, with ``mixed`` in the noise of their seed. A seed or negative prompt that is None is as the run or the
    family has it.
    """

    text: str
    stem: str
    size: VideoSize = (1, 1, 1)
    latent_shape: tuple[int, int, int, int] = (1, 1, 1, 1)
    seed: int | None = None
    negative: str | None = None
    asked: Asked = field(default_factory=Asked)
    conditions: Conditions = field(default_factory=Conditions)
    cache: Path | TextPair | None = None
    negative_cache: Path | TextPair | None = None
    samples: int = 1
    mixed: Mixed = ()


def make_requests(config: GenerateConfig, family: Family, autoencoder: Autoencoder, chunk: int | None) -> list[Request]:
    """The requests of a run, in order.

    Args:
        autoencoder: its skeleton, to ask for sizes.
        chunk: frames of one of its chunks.
    Raises:
        UserError: no prompt, a size that cannot be, lists that do not fit the prompts, tasks that cannot be done.
    """
    lines, caches = _lines(config)
    conditions, count = config.conditions, len(lines)
    negatives = _per_prompt(config.prompts.negative_prompts, count, "negative_prompts")
    samples, noises = config.sampler.num_samples, _noises(config, count)
    paths = conditions.reference_path
    repeats = samples if noises or samples > 1 and len(paths or ()) == count * samples else 1
    if repeats == 1 or len(paths or ()) != count * samples:
        paths = [path for path in _per_prompt(paths, count, "reference_path") for _ in range(repeats)]
    negative_caches = _negative_files(config.prompts.negative_embed_folder, count)
    strategies = _per_prompt(conditions.mask_strategy, count, "mask_strategy")
    requests = []
    if any(negatives) and config.sampler.guidance_scale <= 1:
        raise UserError(f"negative_prompts need guidance; use a guidance_scale above {config.sampler.guidance_scale:g}")
    told = [_extended(config, line) for line in lines] if config.prompts.extend_prompts else lines
    for place in range(count * repeats):
        row, repeat = divmod(place, repeats)
        line = told[row]
        line = replace(
            line,
            seed=None if line.seed is None else line.seed + repeat,
            negative=negatives[row] if line.negative is None else line.negative,
            reference_path=paths[place] if line.reference_path is None else line.reference_path,
            mask_strategy=strategies[row] if line.mask_strategy is None else line.mask_strategy,
            task=conditions.task if line.task is None else line.task,
        )
        stem = f"{row:03d}-{slug(split_loops(lines[row].text)[0][0])}" if caches[row] is None else caches[row].stem
        try:
            request = _request(config, family, line, autoencoder, chunk)
        except UserError as error:
            raise UserError(f"{line.where}: {error}" if count > 1 and line.where else str(error)) from error
        stem = stem if repeats == 1 else f"{stem}-{repeat}"
        own = replace(request, stem=stem, cache=caches[row], negative_cache=negative_caches[row])
        if noises:
            own = replace(own, seed=noises[place].seed, mixed=noises[place].mixed)
        requests.append(replace(own, samples=samples // repeats))
    for size, shape in {(request.size, request.latent_shape) for request in requests}:
        warn_if_rounded(size, shape, autoencoder.spatial_compression)
    return requests


def _noises(config: GenerateConfig, count: int) -> list[InitialNoise]:
    """What each video of all prompts begins from; empty if only seeds say it."""
    given, videos = config.sampler.initial_noise or [], count * config.sampler.num_samples
    if given and len(given) != videos:
        raise UserError(f"initial_noise has {len(given)} entries for {videos} videos; give one for each")
    return [parse_noise(text) for text in given]


def _extended(config: GenerateConfig, line: Line) -> Line:
    """A line with a longer text; one with a text per loop stays as it is."""
    if make_mesh().world_size > 1:
        raise UserError("extend_prompts runs in one process: ranks would get different texts; extend the prompts first")
    if split_loops(line.text)[1]:
        logger.warning("a prompt with a text per loop is not extended: %s", line.text)
        return line
    text = extend_prompt(line.text, config.prompts.endpoint, config.prompts.model)
    logger.info("extended prompt: %s", text)
    return replace(line, text=text)


def _request(
    config: GenerateConfig, family: Family, line: Line, autoencoder: Autoencoder, chunk: int | None
) -> Request:
    shape = config.shape
    if line.height is not None:
        shape = replace(shape, image_size=[line.height, line.width], resolution=None, aspect_ratio=None)
    if line.num_frames is not None:
        shape = replace(shape, num_frames=line.num_frames)
    size = size_of(family, shape, config.sampler.fps / config.sampler.frame_interval, autoencoder)
    latent_shape = (autoencoder.latent_channels, *autoencoder.latent_size(size))
    check_loops(line.text, config.conditions.loop)
    paths = tuple(path.strip() for path in (line.reference_path or "").split(";") if path.strip())
    wanted = config.conditions
    asked = Asked(paths, line.mask_strategy or None, line.task, wanted.edit_ratio, wanted.paste_tail)
    length = length_of(config, size, autoencoder, chunk)
    conditions = Conditions()
    if paths or asked.strategy or asked.task:
        if family.conditioning is None:
            raise UserError(f"model_version {family.name} takes no references; use version 1.1 or later")
        conditions = family.conditioning.understand(asked, length)
    return Request(line.text, "", size, latent_shape, line.seed, line.negative, asked, conditions)


def length_of(config: GenerateConfig, size: VideoSize, autoencoder: Autoencoder, chunk: int | None) -> Length:
    """What tasks have to know of a video of this size; see `make_requests`."""
    return Length(
        size[0],
        autoencoder.latent_size(size)[0],
        config.conditions.condition_frame_length or 1,
        lambda frames: autoencoder.latent_size((frames, *size[1:]))[0],
        frames_decoded(autoencoder),
        chunk,
    )


def _per_prompt(values: Sequence[str] | None, count: int, name: str) -> list[str | None]:
    """One value for all prompts, or one for each; empty ones are none."""
    values = list(values or ())
    if len(values) not in (0, 1, count):
        raise UserError(f"{name} has {len(values)} entries for {count} prompts; give one for all, or one for each")
    values = values * count if len(values) == 1 else values or [None] * count
    return [value if value is None or value.strip() else None for value in values]


def _negative_files(folder: str | None, count: int) -> list[Path] | list[TextPair] | list[None]:
    """The files of negative prompts: one for all prompts, or one for each."""
    files = prompt_files(folder) if folder else [None]
    if len(files) not in (1, count):
        raise UserError(
            f"negative_embed_folder={folder} has {len(files)} embeddings for {count} prompts; make one for all of "
            "them, or one for each"
        )
    return files * count if len(files) == 1 else files


def _lines(config: GenerateConfig) -> tuple[list[Line], list[Path | None]]:
    """The prompts of the command line or a file; with an embedding cache, one per file of it."""
    given = config.prompts
    asked = collect_lines(given.captions, given.prompt_path) if given.captions or given.prompt_path else []
    if not given.text_embed_folder:
        asked = asked or collect_lines(None, None)
        return asked, [None] * len(asked)
    files = prompt_files(given.text_embed_folder)
    if asked and len(asked) != len(files):
        raise UserError(
            f"text_embed_folder={given.text_embed_folder} has {len(files)} embeddings for {len(asked)} prompts; "
            "leave out the prompts, or encode exactly these"
        )
    if any(split_loops(line.text)[1] for line in asked):
        raise UserError("prompts with a text per loop cannot come from text_embed_folder; give t5_model_name_or_path")
    return asked or [Line(read_text(file).text or file.stem) for file in files], list(files)
