"""Open-Sora on MindSpore: text, image and video to video, and the training of all of it."""

from mindone import __version__

__all__ = ["__version__"]
