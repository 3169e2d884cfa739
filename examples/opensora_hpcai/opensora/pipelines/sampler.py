"""From text embeddings to latents: the denoising loop of one family at one video size.

Legend: `B` batch, `C` channels, `T` latent frames, `L` text tokens, `D` caption channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mindone import runtime
from mindone.diffusion.rectified_flow import RectifiedFlow
from opensora.families import Family, VideoSize


def initial_noise(seeds: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """(B, *shape) float32 noise; that of a sample depends on its own seed alone, not on the batch it sits in."""
    return np.stack([runtime.stream(seed, "sample").standard_normal(shape, np.float32) for seed in seeds])


class Sampler:
    """Denoises latents of one size. The network runs compiled in graph mode, once per batch size."""

    def __init__(
        self,
        family: Family,
        denoiser,
        flow: RectifiedFlow,
        size: VideoSize,
        fps: float,
        guidance_scale: float | None = None,
    ):
        """
        Args:
            size: (frames, height, width) of the video.
            fps: frames per second the denoiser is told.
            guidance_scale: the flow's own if not given; 1 or less turns guidance off, and halves the work.
        """
        self.family, self.flow, self.size, self.fps = family, flow, size, fps
        self.guidance_scale = flow.config.cfg_scale if guidance_scale is None else guidance_scale
        self._velocity = family.guided_velocity(denoiser, self.guidance_scale > 1)

    def steps(
        self,
        noise: np.ndarray,
        text: np.ndarray,
        text_mask: np.ndarray,
        edit_mask: np.ndarray | None = None,
        step_noise=None,
    ) -> Iterator[np.ndarray]:
        """Yields the latents (B, C, T, H, W) after every step.

        Args:
            noise: (B, C, T, H, W).
            text, text_mask: (B, L, D) embeddings and (B, L) mask, 1 = valid.
            edit_mask, step_noise: as in `RectifiedFlow.sample`.
        """
        import mindspore as ms

        frames, height, width = self.size
        conditions = self.family.conditions(height, width, frames, self.fps, len(noise))
        fixed = [ms.Tensor(value, ms.float32) for value in conditions.values()]
        text_input = ms.Tensor(text[:, None], ms.float32)
        mask_input = ms.Tensor(text_mask, ms.int32)
        scale = ms.Tensor(self.guidance_scale, ms.float32)

        def velocity(z: np.ndarray, t: np.ndarray, frames_mask: np.ndarray | None) -> np.ndarray:
            frames_input = None if frames_mask is None else ms.Tensor(frames_mask)
            inputs = (ms.Tensor(z), ms.Tensor(t), text_input, mask_input, frames_input, scale)
            return self._velocity(*inputs, *fixed).asnumpy()

        yield from self.flow.sample(velocity, noise, height, width, frames, edit_mask, step_noise)
