"""Classifier-free guidance on batches that hold conditional and unconditional predictions one after the other.

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


def text_and_image(prediction, text_scale, image_scale):
    """Guidance away from a negative text and from a video without given frames (Brooks et al., "InstructPix2Pix").

    Args:
        prediction: (3B, ...) for [text with image, negative text with image, negative text without image].
        text_scale, image_scale: numbers, or of a shape that broadcasts against (B, ...).
    Returns:
        (B, ...): ``p3 + image_scale * (p2 - p3) + text_scale * (p1 - p2)``.
    """
    third = prediction.shape[0] // 3
    both, image, none = prediction[:third], prediction[third : 2 * third], prediction[2 * third :]
    return none + image_scale * (image - none) + text_scale * (both - image)
