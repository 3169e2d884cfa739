"""The training loss of a denoiser with rectified flow, as one differentiable graph.

Legend: `B` batch, `C` channels, `T` latent frames, `L` text tokens, `D` caption channels.
"""

from __future__ import annotations

from mindspore import Tensor, nn

from mindone.diffusion.rectified_flow import point_on_path, training_loss


class DenoiserLoss(nn.Cell):
    """Mean over the batch of the squared error of the velocity. All that is random comes in as tensors."""

    def __init__(self, denoiser: nn.Cell, num_timesteps: int = 1000):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser
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
        fps: Tensor,
        height: Tensor,
        width: Tensor,
    ) -> Tensor:
        """The loss.

        Args:
            latents, noise: (B, C, T, H, W), the latents normalised.
            t: (B,) timesteps.
            text, text_mask: (B, 1, L, D) embeddings and (B, L) mask, 1 = valid.
            drop: (B,), 1 = train without the caption.
            frames_mask: (B, T) bool, False = given and left out of the loss; None: all are generated.
            fps, height, width: (B,).
        """
        noisy = point_on_path(latents, noise, t, frames_mask, self.num_timesteps)
        prediction = self.denoiser(noisy, t, text, text_mask, frames_mask, fps, height, width, drop)
        return training_loss(prediction, latents, noise, frames_mask).mean()
