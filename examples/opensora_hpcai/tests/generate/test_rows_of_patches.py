"""Videos of 1.1 sampled as rows of patches, from the command's settings."""

import numpy as np
import pytest
from generate_inputs import PROMPTS, latents_of

from mindone.errors import UserError
from opensora.families import settle
from opensora.generate.run import generate

LATENTS = {"use_vae_decode": False, "save_latent": True, "version": "v1.1", "captions": PROMPTS[:2]}


def test_rows_of_patches_make_the_same_videos(settings, tmp_path):
    whole = generate(settings(**LATENTS))
    packed = generate(settings(**LATENTS, pre_patchify=True, max_image_size=64, output_path=tmp_path / "packed"))
    np.testing.assert_allclose(latents_of(packed), latents_of(whole), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("version", ["v1", "v1.2", "v2.0"])
def test_versions_without_rows_of_patches_say_which_one_has_them(version, settings):
    with pytest.raises(UserError, match=r"pre_patchify=True is not supported .*version 1\.1 has it"):
        settle(settings(version=version, pre_patchify=True), version)


def test_rows_that_are_too_short_are_refused(settings):
    with pytest.raises(UserError, match="max_image_size=16 has room for 1 patches"):
        generate(settings(**LATENTS, pre_patchify=True, max_image_size=16))
