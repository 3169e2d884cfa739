"""Small films, written as the tests need them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Path]:
    """Writes frames (T, H, W, 3 or 4) uint8 with any codec: ``film("a.mkv", frames, "ffv1", "yuva420p", aspect=2)``."""

    def write(
        name: str,
        frames: np.ndarray,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        rate: int = 8,
        aspect: Fraction | None = None,
        transfer: int | None = None,
        times: Sequence[float] | None = None,
        **options: str,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, options=options)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            if transfer:
                stream.codec_context.color_trc = transfer
            if times:
                stream.codec_context.time_base = Fraction(1, 600)
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24" if pixels.shape[-1] == 3 else "rgba")
                if times:
                    frame.pts, frame.time_base = round(times[number] * 600), Fraction(1, 600)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def quarters() -> np.ndarray:
    """Two frames (32, 64): red, green above blue, white."""
    frames = np.zeros((2, 32, 64, 3), np.uint8)
    frames[:, :16, :32, 0] = frames[:, :16, 32:, 1] = frames[:, 16:, :32, 2] = 250
    frames[:, 16:, 32:] = 250
    return frames


@pytest.fixture
def corners() -> Callable[[np.ndarray], str]:
    """The colours of a picture's quarters, row by row, as letters: ``RGBW``."""
    letters = {(True, False, False): "R", (False, True, False): "G", (False, False, True): "B", (True, True, True): "W"}

    def read(image: np.ndarray) -> str:
        height, width = image.shape[:2]
        points = [(y, x) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
        return "".join(letters.get(tuple((image[y, x] > 125).tolist()), "?") for y, x in points)

    return read
