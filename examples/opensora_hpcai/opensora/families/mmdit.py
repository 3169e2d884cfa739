"""Training and sampling of MMDiT: packing, guidance by text and picture, text dropout, the flow-matching loss.

Legend: `B` batch, `C` latent channels, `T` latent frames, `H`/`W` latent height and width, `N` tokens of a video,
`L` text tokens, `D` their width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindone.diffusion.guidance import classifier_free, text_and_image
from mindone.diffusion.shifted_flow import (
    ShiftedFlow,
    draw_timesteps,
    pack,
    point_on_path,
    shift_of,
    token_positions,
    unpack,
    velocity_of,
)
from mindone.train.loop import Place
from opensora.families.base import Arrays, LatentBatch, Objective, SampleRequest
from opensora.families.cached import StepCache, cached

# Published: T5 and CLIP are dropped independently, both of them for a tenth of the samples.
TEXT_DROPOUT = 0.31622777
# What networks with a guidance input are told in training.
TRAINING_GUIDANCE = 4.0


class Predict(nn.Cell):
    """The network on latents instead of tokens: ``(z, ids, text, t, pooled, condition, guidance) -> velocity``."""

    def __init__(self, denoiser: nn.Cell):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser
        self.patch = denoiser.config.patch_size
        self.takes_condition = denoiser.config.cond_embed
        self.takes_guidance = denoiser.config.guidance_embed

    def construct(self, z, ids, text, t, pooled, condition, guidance):
        """z (B, C, T, H, W), ids (1, N, 3), t (B,), condition (B, 1 + C, T, H, W) or None, guidance (B,)."""
        called = self.arguments(z, ids, text, t, pooled, condition, guidance)
        return unpack(self.denoiser(*called), z.shape[2:], self.patch)

    def arguments(self, z, ids, text, t, pooled, condition, guidance):
        """What the network itself is called with."""
        text_ids = ops.zeros((1, text.shape[1], 3), ms.float32)
        given = pack(condition, self.patch) if self.takes_condition else None
        strength = guidance if self.takes_guidance else None
        return (pack(z, self.patch), ids, text, text_ids, t, pooled, given, strength)


class GuidedVelocity(nn.Cell):
    """Velocity guided by text, and by what is given, inside one compiled graph.

    Branches in batch order: text with the condition, negative text with the condition, negative text without it. Where
    nothing is given the last two are the same, and one is left out.

    Args:
        branches: 3, 2 (nothing is given) or 1 (no guidance, or a network that is told the guidance).
    """

    timestep_place = 3

    def __init__(self, denoiser: nn.Cell, branches: int):
        super().__init__(auto_prefix=False)
        self.predict = Predict(denoiser)
        self.network = denoiser
        self.branches = branches

    def construct(self, z, ids, text, t, pooled, condition, guidance, text_scale, image_scale):
        """text and pooled hold the prompts of the batch, then (with guidance) the negative ones; image_scale (T,)."""
        called = self.arguments(z, ids, text, t, pooled, condition, guidance, text_scale, image_scale)
        return self._guided(self.predict.denoiser(*called), z, text_scale, image_scale)

    def arguments(self, z, ids, text, t, pooled, condition, guidance, text_scale, image_scale):
        """What the network itself is called with, branch by branch."""
        if self.branches == 1:
            return self.predict.arguments(z, ids, text, t, pooled, condition, guidance)
        if self.branches == 2:
            given = None if condition is None else ops.concat((condition, condition), 0)
            return self.predict.arguments(_times(z, 2), ids, text, _times(t, 2), pooled, given, _times(guidance, 2))
        batch = z.shape[0]
        given = ops.concat((condition, condition, ops.zeros_like(condition)), 0)
        text = ops.concat((text, text[batch:]), 0)
        pooled = ops.concat((pooled, pooled[batch:]), 0)
        return self.predict.arguments(_times(z, 3), ids, text, _times(t, 3), pooled, given, _times(guidance, 3))

    def guide(self, tokens, inputs):
        """What the sampler gets of the network's output; ``inputs`` are those of `construct`."""
        return self._guided(tokens, inputs[0], inputs[7], inputs[8])

    def _guided(self, tokens, z, text_scale, image_scale):
        found = unpack(tokens, z.shape[2:], self.predict.patch)
        if self.branches == 1:
            return found
        if self.branches == 2:
            return classifier_free(found, text_scale, z.shape[1])
        return text_and_image(found, text_scale, image_scale.reshape(1, 1, -1, 1, 1))


def _times(x: Tensor, count: int) -> Tensor:
    return ops.concat((x,) * count, 0)


class GuidedSampler:
    """Euler steps of the shifted flow with an MMDiT, which runs compiled, once per batch shape.

    Args:
        distilled: the network is told the guidance instead of being called with a negative text (Flux.1-dev).
        step_cache: which steps leave the blocks out; None: none.
    """

    def __init__(
        self, denoiser: nn.Cell, flow: ShiftedFlow, distilled: bool = False, step_cache: StepCache | None = None
    ):
        self.step_cache = step_cache
        self.flow, self.num_steps, self.distilled = flow, flow.config.num_steps, distilled
        self.denoiser, self.patch = denoiser, denoiser.config.patch_size
        self._cells: dict[int, GuidedVelocity] = {}

    def steps(self, request: SampleRequest) -> Iterator[np.ndarray]:
        batch, size = len(request.noise), request.noise.shape[2:]
        with_negative = not self.distilled and self.flow.config.guidance > 1
        branches = 1 if not with_negative else 2 if request.condition is None else 3
        guided = self._cells.setdefault(branches, GuidedVelocity(self.denoiser, branches))
        run = cached(self.step_cache, guided, self.num_steps)
        sides = (request.text, request.negative) if with_negative else (request.text,)
        text, pooled = (Tensor(np.concatenate([s[name] for s in sides]), ms.float32) for name in ("text", "pooled"))
        ids = Tensor(token_positions(size, self.patch))
        condition = self._condition(request)
        guidance = Tensor(np.full(batch, self.flow.config.guidance, np.float32))

        def velocity(z: np.ndarray, t: float, text_scale: float, image_scale: np.ndarray) -> np.ndarray:
            times = Tensor(np.full(batch, t, np.float32))
            scales = (Tensor(text_scale, ms.float32), Tensor(image_scale))
            return run(Tensor(z), ids, text, times, pooled, condition, guidance, *scales).asnumpy()

        per_frame = size[1] * size[2] // self.patch**2
        for number, z in enumerate(self.flow.sample(velocity, request.noise, per_frame), start=1):
            yield self._with_given(z, request) if number == self.num_steps else z

    def _condition(self, request: SampleRequest) -> Tensor | None:
        if not self.denoiser.config.cond_embed:
            return None
        if request.condition is not None:
            return Tensor(request.condition)
        batch, channels, *size = request.noise.shape
        return Tensor(np.zeros((batch, channels + 1, *size), np.float32))

    @staticmethod
    def _with_given(z: np.ndarray, request: SampleRequest) -> np.ndarray:
        """The result, in which given latents stand as they were given."""
        if request.condition is None:
            return z
        pasted = request.condition[:, :1] > 0 if request.pasted is None else request.pasted
        return np.where(pasted, request.condition[:, 1:], z)


# --- training --------------------------------------------------------------------------------------------------------


class FlowMatchingLoss(nn.Cell):
    """Squared error of the velocity over everything. All that is random comes in as tensors."""

    def __init__(self, denoiser: nn.Cell):
        super().__init__(auto_prefix=False)
        self.predict = Predict(denoiser)

    def construct(
        self,
        latents: Tensor,
        noise: Tensor,
        t: Tensor,
        ids: Tensor,
        text: Tensor,
        pooled: Tensor,
        condition: Tensor | None,
        guidance: Tensor,
    ) -> Tensor:
        """latents and noise (B, C, T, H, W), t (B,), ids (1, N, 3), text (B, L, D), pooled (B, D), condition
        (B, 1 + C, T, H, W) or None, guidance (B,)."""
        noisy = point_on_path(latents, noise, t)
        prediction = self.predict(noisy, ids, text, t, pooled, condition, guidance)
        return ops.square(prediction - velocity_of(latents, noise)).mean()


@dataclass(frozen=True)
class FlowMatchingObjective(Objective):
    """The flow of 2.0 on an MMDiT.

    ``null_text`` has the arrays of the empty prompt, one row, which stand for dropped texts.
    """

    patch: int
    null_text: Arrays
    takes_condition: bool = True
    dropout: float = TEXT_DROPOUT
    guidance: float = TRAINING_GUIDANCE

    def loss_cell(self, denoiser: nn.Cell) -> nn.Cell:
        return FlowMatchingLoss(denoiser)

    def negative_of(self, text: Arrays) -> Arrays | None:
        return with_dropped(text, self.null_text, {name: np.ones(len(values), bool) for name, values in text.items()})

    def loss_inputs(self, batch: LatentBatch, place: Place, at: float | None = None) -> tuple[Tensor | None, ...]:
        shape = batch.latents.shape
        frames, height, width = shape[2:]
        if at is None:
            # A quarter of the latents' area whatever the patch is: the published weights were trained so.
            t = draw_timesteps(place.streams("timestep"), shift_of(height * width // 4, frames))
        else:
            t = np.full(shape[0], at, np.float32)
        share = self.dropout if at is None else 0.0
        dropped = {
            name: np.array([stream.random() < share for stream in place.streams(f"dropout_{name}")])
            for name in ("text", "pooled")
        }
        text = with_dropped(batch.text, self.null_text, dropped)
        return (
            batch.latents,
            Tensor(place.normal("noise", shape[1:])),
            Tensor(t),
            Tensor(token_positions(shape[2:], self.patch)),
            Tensor(text["text"], ms.float32),
            Tensor(text["pooled"], ms.float32),
            self._condition(batch),
            Tensor(np.full(shape[0], self.guidance, np.float32)),
        )

    def _condition(self, batch: LatentBatch) -> Tensor | None:
        if not self.takes_condition:
            return None
        if batch.condition is not None:
            return Tensor(batch.condition)
        shape = batch.latents.shape
        return Tensor(np.zeros((shape[0], shape[1] + 1, *shape[2:]), np.float32))


def with_dropped(text: Arrays, null: Arrays, dropped: Arrays) -> dict[str, np.ndarray]:
    """Text arrays in which dropped rows are those of the empty prompt.

    Args:
        null: one row; embeddings with fewer tokens go on with their last one.
        dropped: by name, (B,) bool.
    """
    result = {}
    for name, values in text.items():
        empty = null[name]
        if values.ndim == 3 and empty.shape[1] < values.shape[1]:
            last = np.repeat(empty[:, -1:], values.shape[1] - empty.shape[1], axis=1)
            empty = np.concatenate([empty, last], 1)
        where = dropped[name].reshape(-1, *[1] * (values.ndim - 1))
        result[name] = np.where(where, empty, values)
    return result
