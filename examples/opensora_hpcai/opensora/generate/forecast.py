"""What a run will need, from the sizes of its networks: parameters, latents, and a rough peak of memory per stage.

The peaks are the weights, and the largest tensors that are alive at the same time. They are meant to tell 10 GB from
100, not to be exact.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mindone import runtime
from opensora import networks
from opensora.generate.plan import Plan
from opensora.generate.requests import Request
from opensora.generate.shapes import is_of_whole_videos
from opensora.model_folder import config_from, read_config

if TYPE_CHECKING:
    from mindspore import nn


logger = logging.getLogger(__name__)

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
# Tensors of the width of a block that are alive within it, the parts of an MLP included.
BLOCK_TENSORS = 12
# Feature maps of full resolution that are alive in the last level of a decoder.
DECODER_TENSORS = 4
DECODER_CHANNELS = 128


@dataclass(frozen=True)
class Stage:
    """One network at work."""

    name: str
    parameters: int
    peak_bytes: float

    def __str__(self) -> str:
        return f"{self.name} {count(self.parameters)} parameters, about {size(self.peak_bytes)}"


def say_what_is_needed(plan: Plan) -> None:
    """One line before anything is loaded."""
    stages = needed(plan)
    job = max(plan.jobs, key=lambda job: math.prod(plan.request(job).latent_shape))
    shape = "x".join(map(str, plan.request(job).latent_shape))
    logger.info("%d to make, latents up to %s; one network at a time: %s", len(plan.jobs), shape, _listed(stages))


def _listed(stages: Sequence[Stage]) -> str:
    return "; ".join(map(str, stages))


def needed(plan: Plan) -> list[Stage]:
    """The stages of a run, in their order."""
    config = plan.config
    stages = [
        Stage("text encoder", parameters, parameters * width_of(config.text.t5_dtype))
        for parameters in _encoder_parameters(plan)
    ]
    request = max((plan.request(job) for job in plan.jobs), key=lambda request: math.prod(request.latent_shape))
    batch = min(config.sampler.batch_size, len(plan.jobs)) * branches_of(plan, request)
    stages.append(_denoiser_stage(plan, batch, request.latent_shape))
    if config.output.use_vae_decode:
        stages.append(_autoencoder_stage(plan, request.size))
    return stages


def branches_of(plan: Plan, request: Request) -> int:
    """How often a step calls the denoiser for one video."""
    if plan.config.sampler.guidance_scale <= 1:
        return 1
    return 3 if request.conditions.kind != "t2v" else 2


def _denoiser_stage(plan: Plan, batch: int, latent_shape: Sequence[int]) -> Stage:
    config, dtype = plan.denoiser_config, plan.config.denoiser.dtype
    with runtime.lazy_parameters():
        parameters = parameters_of(networks.denoiser_class(config)(config, None))
    patch = getattr(config, "patch_size", 2)
    patch = math.prod(patch) if isinstance(patch, tuple | list) else patch**2
    tokens = math.prod(latent_shape[1:]) // patch
    peak = parameters * width_of(dtype) + batch * tokens * config.hidden_size * BLOCK_TENSORS * width_of(dtype)
    return Stage("denoiser", parameters, peak)


def _autoencoder_stage(plan: Plan, video: Sequence[int]) -> Stage:
    parameters = parameters_of(plan.autoencoder)
    frames, height, width = video
    at_once = getattr(plan.autoencoder.config, "micro_batch_size", None) or frames
    if is_of_whole_videos(plan.autoencoder):
        # Its micro batch counts videos.
        at_once = frames
    width_bytes = width_of(plan.config.autoencoder.vae_dtype)
    maps = min(at_once, frames) * height * width * DECODER_CHANNELS * DECODER_TENSORS
    return Stage(
        "autoencoder", parameters, parameters * width_bytes + maps * width_bytes + frames * height * width * 12
    )


def _encoder_parameters(plan: Plan) -> list[int]:
    """Of the text encoders whose folders are given, from their config.json."""
    from mindone.models.t5 import T5Config

    if plan.config.prompts.text_embed_folder:
        return []
    values = read_config(plan.config.text.t5_model_name_or_path)
    if "d_model" not in values:
        return []
    config = config_from(T5Config, values)
    inner = config.num_heads * config.d_kv
    attention = 4 * config.d_model * inner
    gated = 3 if "gated" in str(values.get("feed_forward_proj", "gated-gelu")) else 2
    layer = attention + gated * config.d_model * config.d_ff + 2 * config.d_model
    return [config.vocab_size * config.d_model + config.num_layers * layer]


def parameters_of(network: nn.Cell) -> int:
    """Numbers in its parameters, trained or not."""
    return sum(math.prod(parameter.shape) for parameter in network.get_parameters())


def width_of(dtype: str) -> int:
    """Bytes per number; a CPU computes bf16 in float32."""
    return 4 if dtype == "bf16" and runtime.current().device == "CPU" else BYTES[dtype]


def count(number: int) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return str(number)


def size(number: float) -> str:
    return f"{number / 1e9:.3g} GB" if number >= 1e8 else f"{number / 1e6:.3g} MB"
