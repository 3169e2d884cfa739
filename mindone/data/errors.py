"""The error of one unusable sample."""

from __future__ import annotations

from mindone.errors import UserError


class BadSample(UserError):
    """One file or row cannot be used; the message names it and the reason.

    A `mindone.data.loader.Loader` counts, reports and replaces such samples; anywhere else it is bad input like any.
    """
