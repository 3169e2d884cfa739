"""What the STDiT families (1.0, 1.1, 1.2) share: text, the call of their denoisers, guidance, the rectified-flow loss.

Legend: `B` batch, `C` channels, `T` latent frames, `L` text tokens, `D` caption channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import ArrayLike

from mindone.config import Settings, about
from mindone.diffusion.guidance import classifier_free
from mindone.diffusion.rectified_flow import RectifiedFlow, point_on_path, training_loss
from mindone.train.loop import Place
from opensora.config.common import Text
from opensora.config.train import TrainConfig
from opensora.data.dataset import IMAGE_FPS
from opensora.data.masks import MaskGenerator
from opensora.families.base import Arrays, Family, LatentBatch, Objective, PromptRules, SampleRequest
from opensora.families.cached import StepCache, cached
from opensora.text.cleaning import cleaner
from opensora.text.conditioner import T5Conditioner
from opensora.text.prompts import append_scores

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig

Conditions = Mapping[str, np.ndarray]


class Denoise(nn.Cell):
    """One call for all STDiT networks: ``(x, t, text, text_mask, frames_mask, conditions, drop)``.

    ``conditions`` are (B,) tensors in the order of the network's ``condition_names``; networks without a frames mask
    get none.
    """

    def __init__(self, denoiser: nn.Cell):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser
        self.takes_frames_mask = denoiser.takes_frames_mask

    def construct(self, x, t, text, text_mask, frames_mask, conditions, drop):
        return self.denoiser(*self.arguments(x, t, text, text_mask, frames_mask, conditions, drop))

    def arguments(self, x, t, text, text_mask, frames_mask, conditions, drop):
        """What the network itself is called with."""
        if self.takes_frames_mask:
            return (x, t, text, text_mask, frames_mask, *conditions, drop)
        return (x, t, text, text_mask, *conditions, drop)


class GuidedPrediction(nn.Cell):
    """The denoiser's output with classifier-free guidance inside one compiled graph.

    Without a negative prompt the unconditional half gets the learned null caption with the text mask of the
    conditional half: the published weights were sampled so, and the result depends on it.

    Args:
        guided: False calls the network once, without an unconditional half.
        channels: how many leading channels are guided; None: all latent channels.
        keep_variance: also return the channels after the latent ones (the learned variance), of the conditional half.
    """

    timestep_place = 1

    def __init__(
        self, denoiser: nn.Cell, guided: bool = True, channels: int | None = None, keep_variance: bool = False
    ):
        super().__init__(auto_prefix=False)
        self.denoise = Denoise(denoiser)
        self.network = denoiser
        self.null_caption = denoiser.y_embedder.y_embedding
        # Where ranks have slices of it.
        self.null_slices = getattr(denoiser.y_embedder, "spread", None)
        self.guided, self.channels, self.keep_variance = guided, channels, keep_variance

    def construct(
        self,
        z: Tensor,
        t: Tensor,
        text: Tensor,
        text_mask: Tensor,
        negative: Tensor | None,
        negative_mask: Tensor | None,
        frames_mask: Tensor | None,
        guidance_scale: Tensor,
        *conditions: Tensor,
    ) -> Tensor:
        """z (B, C, T, H, W), t (B,), text (B, 1, L, D), text_mask (B, L), frames_mask (B, T) or None, rest (B,)."""
        told = (frames_mask, guidance_scale, *conditions)
        called = self.arguments(z, t, text, text_mask, negative, negative_mask, *told)
        return self._guided(self.denoise.denoiser(*called), z, guidance_scale)

    def arguments(
        self, z, t, text, text_mask, negative, negative_mask, frames_mask, guidance_scale, *conditions
    ) -> tuple:
        """What the network itself is called with: the conditional half, then the unconditional one."""
        if not self.guided:
            return self.denoise.arguments(z, t, text, text_mask, frames_mask, conditions, None)
        if negative is None:
            null = self.null_caption if self.null_slices is None else self.null_slices.whole(self.null_caption, text)
            negative = ops.broadcast_to(null.astype(text.dtype), text.shape)
            negative_mask = text_mask
        doubled = ()
        for value in conditions:
            doubled += (_twice(value),)
        return self.denoise.arguments(
            _twice(z),
            _twice(t),
            ops.concat((text, negative), 0),
            ops.concat((text_mask, negative_mask), 0),
            None if frames_mask is None else _twice(frames_mask),
            doubled,
            None,
        )

    def guide(self, output: Tensor, inputs: tuple) -> Tensor:
        """What the sampler gets of the network's output; ``inputs`` are those of `construct`."""
        return self._guided(output, inputs[0], inputs[7])

    def _guided(self, output: Tensor, z: Tensor, guidance_scale: Tensor) -> Tensor:
        latent_channels = z.shape[1]
        if not self.guided:
            return output if self.keep_variance else output[:, :latent_channels]
        guided_channels = self.channels or latent_channels
        guided = classifier_free(output, guidance_scale, guided_channels)
        end = output.shape[1] if self.keep_variance else latent_channels
        if guided_channels < end:
            guided = ops.concat((guided, output[: z.shape[0], guided_channels:end]), 1)
        return guided


def _twice(x: Tensor) -> Tensor:
    return ops.concat((x, x), 0)


class FlowLoss(nn.Cell):
    """Mean over the batch of the squared error of the velocity. All that is random comes in as tensors."""

    def __init__(self, denoiser: nn.Cell, num_timesteps: int = 1000):
        super().__init__(auto_prefix=False)
        self.denoise = Denoise(denoiser)
        self.num_timesteps = num_timesteps

    def construct(
        self,
        latents: Tensor,
        noise: Tensor,
        t: Tensor,
        text: Tensor,
        text_mask: Tensor,
        drop: Tensor,
        frames_mask: Tensor | None,
        *conditions: Tensor,
    ) -> Tensor:
        """The loss.

        Args:
            latents, noise: (B, C, T, H, W), the latents normalised.
            t: (B,) timesteps.
            text, text_mask: (B, 1, L, D) embeddings and (B, L) mask, 1 = valid.
            drop: (B,), 1 = train without the caption.
            frames_mask: (B, T) bool, False = given and left out of the loss; None: all are generated.
            conditions: (B,) each, see `Denoise`.
        """
        noisy = point_on_path(latents, noise, t, frames_mask, self.num_timesteps)
        prediction = self.denoise(noisy, t, text, text_mask, frames_mask, conditions, drop)
        return training_loss(prediction, latents, noise, frames_mask).mean()


def inputs_of_text(text: Arrays) -> tuple[Tensor, Tensor]:
    """Embeddings (B, 1, L, D) float32 and mask (B, L) int32 as STDiT networks take them."""
    return Tensor(text["text"][:, None], ms.float32), Tensor(text["text_mask"], ms.int32)


def condition_tensors(names: Sequence[str], conditions: Conditions) -> tuple[Tensor, ...]:
    """The conditions that a network is told, in its order."""
    return tuple(Tensor(conditions[name], ms.float32) for name in names)


def all_conditions(
    fps: ArrayLike, num_frames: ArrayLike, height: ArrayLike, width: ArrayLike, batch: int
) -> dict[str, np.ndarray]:
    """Everything an STDiT may be told of clips, (B,) float32 by name, from (B,) each or one for all.

    An image counts as 120 frames per second.
    """
    frames, high, wide = (np.broadcast_to(np.asarray(v, np.float32), (batch,)) for v in (num_frames, height, width))
    rate = np.where(frames == 1, np.float32(IMAGE_FPS), np.broadcast_to(np.asarray(fps, np.float32), (batch,)))
    values = {"fps": rate, "num_frames": frames, "height": high, "width": wide, "ar": high / wide}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in values.items()}


def dropped_captions(share: float, place: Place, at: float | None) -> np.ndarray:
    """(B,) int32, 1 for the samples that are trained without their caption; none in validation."""
    share = share if at is None else 0.0
    return np.array([stream.random() < share for stream in place.streams("caption_dropout")], np.int32)


@dataclass(frozen=True)
class FlowObjective(Objective):
    """Rectified flow on an STDiT (1.2)."""

    flow: RectifiedFlow
    condition_names: tuple[str, ...]
    dropout: float
    """share of the captions that are dropped"""

    def loss_cell(self, denoiser: nn.Cell) -> nn.Cell:
        return FlowLoss(denoiser, self.flow.config.num_timesteps)

    def loss_inputs(self, batch: LatentBatch, place: Place, at: float | None = None) -> tuple[Tensor | None, ...]:
        shape = batch.latents.shape
        if at is None:
            t = self.flow.draw_timesteps(place.streams("timestep"), batch.height, batch.width, batch.num_frames)
        else:
            t = np.full(shape[0], at * self.flow.config.num_timesteps, np.float32)
        told = all_conditions(batch.fps, batch.num_frames, batch.height, batch.width, shape[0])
        return (
            batch.latents,
            Tensor(place.normal("noise", shape[1:])),
            Tensor(t),
            *inputs_of_text(batch.text),
            Tensor(dropped_captions(self.dropout, place, at)),
            None if batch.frames_mask is None else Tensor(batch.frames_mask),
            *condition_tensors(self.condition_names, told),
        )


class FlowSampler:
    """Rectified flow's Euler steps with an STDiT. The network runs compiled in graph mode, once per batch shape."""

    def __init__(
        self,
        denoiser: nn.Cell,
        flow: RectifiedFlow,
        channels: int | None = None,
        step_cache: StepCache | None = None,
    ):
        self.step_cache = step_cache
        self.flow, self.num_steps = flow, flow.config.num_sampling_steps
        self.guidance_scale = flow.config.cfg_scale
        self._names = denoiser.condition_names
        self._velocity = GuidedPrediction(denoiser, self.guidance_scale > 1, channels)

    def steps(self, request: SampleRequest) -> Iterator[np.ndarray]:
        frames, height, width = request.size
        told = all_conditions(request.fps, frames, height, width, len(request.noise))
        conditions = condition_tensors(self._names, told)
        text = inputs_of_text(request.text)
        negative = (None, None) if request.negative is None else inputs_of_text(request.negative)
        scale = Tensor(self.guidance_scale, ms.float32)
        run = cached(self.step_cache, self._velocity, self.num_steps)

        def velocity(z: np.ndarray, t: np.ndarray, frames_mask: np.ndarray | None) -> np.ndarray:
            mask = None if frames_mask is None else Tensor(frames_mask)
            return run(Tensor(z), Tensor(t), *text, *negative, mask, scale, *conditions).asnumpy()

        yield from self.flow.sample(
            velocity, request.noise, height, width, frames, request.edit_mask, request.edit_noise
        )


@dataclass(frozen=True)
class STDiTFamily(Family):
    """A version whose denoiser is an STDiT, told its text by T5."""

    def check(self, config: Settings) -> None:
        super().check(config)
        if isinstance(config, TrainConfig) and config.flow.mask_ratios:
            with about("mask_ratios"):
                MaskGenerator(config.flow.mask_ratios)

    def prepare_prompt(self, prompt: str, rules: PromptRules) -> str:
        scored = append_scores(prompt, rules.aesthetic_score, rules.motion_score, rules.camera_motion)
        return cleaner(rules.cleaning)(scored)

    def conditioner(
        self, text: Text, denoiser_config: DenoiserConfig | None = None, batch_size: int = 1
    ) -> T5Conditioner:
        length = denoiser_config.model_max_length if denoiser_config else text.model_max_length or self.model_max_length
        width = denoiser_config.caption_channels if denoiser_config else 0
        return T5Conditioner(text.t5_model_name_or_path, length, width, text.t5_dtype, batch_size)
