"""Text to picture to video (2.0): the picture is made first, by a network of its own, and the video starts from it."""

from __future__ import annotations

from dataclasses import replace

from opensora.config.generate import Conditions, GenerateConfig
from opensora.data.cache import prompt_files
from opensora.families import settle
from opensora.generate.run import generate

FIRST_FRAME = "i2v_head"


def with_first_images(videos: GenerateConfig, pictures: GenerateConfig) -> GenerateConfig:
    """Makes the pictures, writes them as PNG, and returns the settings of the videos that start from them.

    Both have the same prompts, samples and first seed, so picture i belongs to video i, on the same rank. The networks
    of the pictures are gone when this returns: they are never in memory together with those of the videos.

    Raises:
        UserError: what cannot work, that of the videos included, before anything is made.
    """
    settle(_starting_from(videos, ["first.png"]), videos.denoiser.model_version)
    made = {result.job.seed - pictures.runtime.seed: str(result.video) for result in generate(pictures)}
    if not made:
        return videos  # more ranks than videos: this one has none
    # Other ranks know the names of their own pictures; what stands in their places here is not read.
    own = next(iter(made.values()))
    return _starting_from(videos, [made.get(number, own) for number in range(_count(videos))])


def _starting_from(videos: GenerateConfig, files: list[str]) -> GenerateConfig:
    return replace(videos, conditions=Conditions(reference_path=files, task=FIRST_FRAME))


def _count(videos: GenerateConfig) -> int:
    """Videos of all ranks."""
    prompts = videos.prompts
    texts = prompt_files(prompts.text_embed_folder) if prompts.text_embed_folder else prompts.captions
    return len(texts) * videos.sampler.num_samples
