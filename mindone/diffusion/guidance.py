"""Classifier-free guidance on batches ordered [conditional, unconditional].

Plain arithmetic on numpy arrays or MindSpore tensors, also inside a compiled graph.
"""

from __future__ import annotations


def classifier_free(prediction, scale, channels: int):
    """``unconditional + scale * (conditional - unconditional)`` (Ho and Salimans).

    Args:
        prediction: (2B, C or more, ...), the conditional half first.
        scale: guidance scale; 1 is the conditional prediction itself.
        channels: C, how many leading channels are guided and kept.
    Returns:
        (B, C, ...).
    """
    half = prediction.shape[0] // 2
    conditional, unconditional = prediction[:half, :channels], prediction[half:, :channels]
    return unconditional + scale * (conditional - unconditional)
