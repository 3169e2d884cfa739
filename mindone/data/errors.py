"""The errors of one unusable sample."""

from __future__ import annotations

from mindone.errors import UserError


class BadSample(UserError):
    """One file or row cannot be used; the message names it and the reason.

    A `mindone.data.loader.Loader` counts, reports and replaces such samples; anywhere else it is bad input like any.
    """


class MissingFrames(BadSample):
    """A file ends before the frame asked for; ``num_frames`` is how many it really has."""

    def __init__(self, message: str, num_frames: int = 0):
        super().__init__(message)
        self.num_frames = num_frames

    def __reduce__(self):
        return MissingFrames, (str(self), self.num_frames)


def reason(error: Exception) -> str:
    """The first line of a library's error, to stand inside a sentence."""
    text = getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0] or type(error).__name__
    return text[0].lower() + text[1:]
