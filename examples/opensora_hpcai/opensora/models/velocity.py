"""The velocity of a denoiser with classifier-free guidance inside one compiled graph.

Legend: `B` batch, `C` channels, `T` latent frames, `L` text tokens, `D` caption channels.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindone.diffusion.guidance import classifier_free


class STDiTVelocity(nn.Cell):
    """Guided velocity of an STDiT-like denoiser.

    The unconditional half gets the learned null caption with the text mask of the conditional half: the published
    weights were sampled so, and the result depends on it.
    """

    def __init__(self, denoiser: nn.Cell, guided: bool = True):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser
        self.guided = guided

    def construct(
        self,
        z: Tensor,
        t: Tensor,
        text: Tensor,
        text_mask: Tensor,
        frames_mask: Tensor | None,
        guidance_scale: Tensor,
        fps: Tensor,
        height: Tensor,
        width: Tensor,
    ) -> Tensor:
        """z (B, C, T, H, W), t (B,), text (B, 1, L, D), text_mask (B, L), frames_mask (B, T) or None, rest (B,)."""
        channels = z.shape[1]
        if not self.guided:
            output = self.denoiser(z, t, text, text_mask, frames_mask, fps, height, width)
            return output[:, :channels]
        null = ops.broadcast_to(self.denoiser.y_embedder.y_embedding.astype(text.dtype), text.shape)
        output = self.denoiser(
            _twice(z),
            _twice(t),
            ops.concat((text, null), 0),
            _twice(text_mask),
            None if frames_mask is None else _twice(frames_mask),
            _twice(fps),
            _twice(height),
            _twice(width),
        )
        return classifier_free(output, guidance_scale, channels)


def _twice(x: Tensor) -> Tensor:
    return ops.concat((x, x), 0)
