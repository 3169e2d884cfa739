"""What the tests of generation ask the tiny networks for, and get."""

import numpy as np

TOKENS = 8
PROMPTS = ["a red circle moves left", "a blue circle", "a red circle moves up"]


def latents_of(results):
    return np.stack([result.latents for result in results])
