"""The denoiser of the first release against the numbers of the original."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindone.diffusion.iddpm import Diffusion, DiffusionConfig
from mindone.diffusion.iddpm_loss import noisy, training_losses
from mindone.errors import UserError
from mindone.testing.golden import as_tensor, loss_and_gradients
from opensora.data import patches
from opensora.models.early_dit import EARLY_DIT_PRESETS, EarlyDiT, EarlyDiTConfig


def network_of(case):
    return case.load_into(EarlyDiT(EarlyDiTConfig(**case.args)))


class MaskedSquare(nn.Cell):
    """``mean((out * mask) ** 2)`` over all tokens, and the output."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x, t, text, mask, kept):
        out = self.network(x, t, text, mask)
        return ops.square(out * kept[:, :, None, None, None]).mean(), out


class Training(nn.Cell):
    """The loss of the first release: with a mask, terms of padding are zero but count in the mean."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x, t, text, mask, kept, noise, coefficients):
        x, noise = x.transpose(0, 2, 1, 3, 4), noise.transpose(0, 2, 1, 3, 4)
        x_t = noisy(x, noise, coefficients)
        output = self.network(x_t.transpose(0, 2, 1, 3, 4), t, text, mask).transpose(0, 2, 1, 3, 4)
        parts = training_losses(output, x, x_t, noise, t == 0, coefficients, None if kept is None else kept > 0)
        share = 1.0 if kept is None else kept.mean(1)
        loss, error, bound = (part * share for part in parts)
        return loss.mean(), loss, error, bound


@pytest.mark.golden("v00_dit_")
def test_noise_and_gradients_match_the_original(golden_case, mode):
    network, inputs = network_of(golden_case), golden_case.inputs
    masks = inputs["video_padding_mask"], inputs["text_padding_mask"]
    mask = patches.attention_mask(*masks, network.config.model_arch)
    assert np.array_equal(mask, golden_case.outputs["attention_mask"])
    given = golden_case.input_tensors(("video_latent_states", "t", "text_latent_states"))
    kept = Tensor(masks[0].astype(np.float32))
    named = dict(network.parameters_and_names())
    wanted = [name for name in golden_case.grads if not name.startswith("train_")]
    results, gradients, _ = loss_and_gradients(
        MaskedSquare(network), [named[name] for name in wanted], [*given, as_tensor(mask), kept]
    )
    for name, value in zip(("loss", "out"), results):
        golden_case.check_outputs(name, value)
    found = dict(zip(wanted, gradients))
    for name in wanted:
        limit = golden_case.tolerance["grads_atol_over_max"] * np.abs(golden_case.grads[name]).max()
        np.testing.assert_allclose(found[name].asnumpy(), golden_case.grads[name], rtol=0, atol=limit, err_msg=name)
    golden_case.check_outputs("out_no_mask", network(*given))
    golden_case.check_intermediate("tokens_in", network.tokens(given[0], given[2]))


@pytest.mark.golden("v00_dit_")
def test_guidance_matches_the_original(golden_case):
    network, scale = network_of(golden_case), golden_case.sidecar["forward_args"]["cfg_scale"]
    x, t, text = golden_case.input_tensors(("cfg_x", "t", "text_latent_states"))
    half = x[: len(x) // 2]
    given, without = (
        network(half, t, text, None, ops.full((len(half),), drop, dtype=ms.int32)).asnumpy() for drop in (0, 1)
    )
    channels = network.config.in_channels
    guided = (without + scale * (given - without))[:, :, :channels]
    found = [np.concatenate((guided, part[:, :, channels:]), 2) for part in (given, without)]
    golden_case.check_outputs("out_cfg", Tensor(np.concatenate(found)))


@pytest.mark.golden("v00_dit_")
@pytest.mark.parametrize("tag", ["train_masked", "train_unmasked"])
def test_training_losses_match_the_original(golden_case, mode, tag):
    network, inputs = network_of(golden_case), golden_case.inputs
    mask = kept = None
    if tag == "train_masked":
        masks = inputs["video_padding_mask"], inputs["text_padding_mask"]
        mask, kept = as_tensor(patches.attention_mask(*masks, network.config.model_arch)), masks[0].astype(np.float32)
    steps = inputs["t_loss"].astype(np.int32)
    coefficients = Tensor(Diffusion(DiffusionConfig(learn_sigma=network.config.learn_sigma)).coefficients(steps))
    x, text, noise = golden_case.input_tensors(("video_latent_states", "text_latent_states", "noise"))
    named = dict(network.parameters_and_names())
    wanted = [name.removeprefix(f"{tag}/") for name in golden_case.grads if name.startswith(f"{tag}/")]
    arguments = [x, Tensor(steps), text, mask, None if kept is None else Tensor(kept), noise, coefficients]
    results, gradients, _ = loss_and_gradients(Training(network), [named[name] for name in wanted], arguments)
    for name, value in zip(("mean_loss", "loss", "mse", "vb"), results):
        golden_case.check_outputs(f"{tag}/{name}", value)
    golden_case.check_gradients({f"{tag}/{name}": value for name, value in zip(wanted, gradients)}, under=f"{tag}/")


@pytest.mark.golden("v00_patchify")
def test_batches_of_patches_match_the_original(golden_case):
    inputs, side = golden_case.inputs, golden_case.args["patch_size"]
    count = sum(name.startswith("video") for name in inputs)
    videos = [patches.normalized(inputs[f"video{index}"]) for index in range(count)]
    texts = [inputs[f"text{index}"] for index in range(count)]
    for name, architecture in (("crossattn", "cross-attn"), ("tokenconcat", "token-concat"), ("adaln", "adaln")):
        for suffix, multiple in (("", None), ("_multiple", golden_case.args["pad_to_multiple"])):
            video, video_mask = patches.padded([patches.to_patches(each, side) for each in videos], multiple)
            text, text_mask = patches.padded(texts, multiple)
            found = {
                "video_latent_states": video,
                "video_padding_mask": video_mask,
                "text_latent_states": text,
                "attention_mask": patches.attention_mask(video_mask, text_mask, architecture),
            }
            for key, value in found.items():
                if f"{name}{suffix}/{key}" in golden_case.outputs:
                    golden_case.check_outputs(f"{name}{suffix}/{key}", value)
    frames, height, width, _ = videos[1].shape
    back = patches.pixels(patches.from_patches(patches.to_patches(videos[1], side), (frames, height, width)))
    golden_case.check_outputs("video1_round_trip", back)


def test_frames_smaller_than_a_patch_are_refused():
    with pytest.raises(UserError, match="1x4 are smaller than a patch of 2x2"):
        patches.to_patches(np.zeros((2, 1, 4, 3)), 2)


def test_published_sizes_are_those_of_dit():
    config = EARLY_DIT_PRESETS["DiT-XL/2"]
    assert (config.hidden_size, config.depth, config.num_heads, config.patch_size) == (1152, 28, 16, 2)
    assert EARLY_DIT_PRESETS["DiT-S/8"].patch_size == 8


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"model_arch": "film"}, "adaln, cross-attn, token-concat"), ({"max_num_embeddings": 10}, "no square number")],
)
def test_settings_that_cannot_be_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        EarlyDiTConfig(**setting)
