"""Videos that are sampled during training, to see what has been learned."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mindone import runtime
from mindone.data.errors import BadSample
from mindone.data.loader import Dataset
from mindone.data.write import to_uint8, write_contact_sheet, write_png, write_video
from mindone.parallel.collectives import barrier
from mindone.parallel.mesh import Mesh
from mindone.train.ema import Ema
from mindone.train.tracker import Trackers
from opensora.data.dataset import DEFAULT_FPS
from opensora.families.base import Arrays, Sampler, SampleRequest, initial_noise
from opensora.models.autoencoder import Autoencoder
from opensora.sizes import VideoSize

# Of the first video that is sampled; the next one has the next number.
SEED = 0


def frame_rate(dataset: Dataset) -> float:
    """Frames per second of the first sample that can be read."""
    for index in range(len(dataset)):
        try:
            return float(dataset.get(index, runtime.stream(SEED, "sample"))["fps"])
        except BadSample:
            continue
    return DEFAULT_FPS


class Samples:
    """Samples videos with the averaged weights, or the trained ones without an average, into ``samples/step-...``.

    All ranks take part at the same step: those of the first row denoise, which they may do together, and the first rank
    writes.

    Args:
        prompts, text: what is sampled, as it is written below the videos and as the denoiser is told.
        fps: frames per second that the denoiser is told, and of the files.
        folder: of the run.
        negative: what the sampler moves away from, a row for each text; None: a caption that the denoiser has learned.
        together: whether weights are spread over all ranks, so that all rows denoise.
    """

    def __init__(
        self,
        sampler: Sampler,
        autoencoder: Autoencoder,
        ema: Ema | None,
        prompts: Sequence[str],
        text: Arrays,
        size: VideoSize,
        fps: float,
        folder: Path,
        trackers: Trackers,
        mesh: Mesh,
        negative: Arrays | None = None,
        together: bool = False,
    ):
        self.negative, self.together = negative, together
        self.sampler, self.autoencoder, self.ema = sampler, autoencoder, ema
        self.prompts, self.text, self.size, self.fps = list(prompts), text, size, fps
        self.folder, self.trackers, self.mesh = folder, trackers, mesh

    def __call__(self, step: int) -> None:
        """Samples after ``step`` updates."""
        if self.together or self.mesh.data_index == 0:
            with self.ema.applied() if self.ema else contextlib.nullcontext():
                latents = self._sample()
            if self.mesh.is_main:
                self._write(step, latents)
        barrier(self.mesh)

    def _sample(self) -> np.ndarray:
        shape = (self.autoencoder.latent_channels, *self.autoencoder.latent_size(self.size))
        noise = initial_noise(range(SEED, SEED + len(self.prompts)), shape)
        *_, latents = self.sampler.steps(SampleRequest(noise, self.text, self.size, self.fps, self.negative))
        return latents

    def _write(self, step: int, latents: np.ndarray) -> None:
        folder = self.folder / "samples" / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        clips = []
        for number, z in enumerate(latents):
            clips.append(to_uint8(self.autoencoder.decode(z[None], self.size[0]).asnumpy()[0]))
            if len(clips[-1]) == 1:
                write_png(folder / f"{number:03d}.png", clips[-1])
            else:
                write_video(folder / f"{number:03d}.mp4", clips[-1], self.fps)
        sheet = write_contact_sheet(folder / "contact_sheet.png", clips, self.prompts)
        self.trackers.picture(step, "samples", sheet)
