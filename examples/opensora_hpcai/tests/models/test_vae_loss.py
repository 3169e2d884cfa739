"""The losses of autoencoders against the published ones, term by term."""

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindone.models.autoencoder_kl import split_moments
from mindone.models.lpips import LPIPS
from opensora.models.vae_loss import divergence, frame_distances, frame_errors, negative_log_likelihood

PIXELS = ("video", "recon_video", "posterior_parameters")
INPUTS_OF = {
    "stage3_image": ("image", "image_recon", "image_posterior_parameters"),
    "gray": ("gray", "gray_recon", "posterior_parameters"),
}
LATENTS_OF = {"stage12_video": ("x_z", "x_z_rec"), "stage1_image": ("image_x_z", "image_x_z_rec", "image_z")}
FRAMEWISE = "frame-wise"


class PublishedLoss(nn.Cell):
    """nll, weighted nll and weighted divergence of pixels, put together from the parts that training uses.

    What weighs the distances and the divergence are inputs, so that runs which differ by them share a graph.
    """

    def __init__(self, lpips, weights):
        super().__init__(auto_prefix=False)
        self.lpips, self.weights = lpips, weights

    def construct(self, video, result, posterior, logvar, perceptual, kl):
        distances = None if self.lpips is None else frame_distances(self.lpips, video, result)
        errors = frame_errors(video, result, distances, perceptual)
        nll = negative_log_likelihood(errors, logvar)
        weighted = nll if self.weights is None else negative_log_likelihood(errors, logvar, self.weights)
        mean, spread = split_moments(posterior)
        pull = kl * divergence(mean, spread)
        return weighted + pull, nll, weighted, pull


class LatentLoss(nn.Cell):
    """Latents of the 2D part against their reconstruction; for images, against what they shall not change, too."""

    def construct(self, x_z, x_z_rec, z, logvar):
        latent = negative_log_likelihood(frame_errors(x_z, x_z_rec), logvar)
        if z is None:
            return latent, latent, latent
        identity = negative_log_likelihood(frame_errors(x_z, z), logvar)
        return latent + identity, latent, identity


class WithGradients(nn.Cell):
    """Results of a loss and the gradients of its first one with respect to the inputs at some places."""

    def __init__(self, loss, places):
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.run = ops.value_and_grad(loss, places, has_aux=True)

    def construct(self, *inputs):
        return self.run(*inputs)


def lpips_of(case):
    prefix = "perceptual_loss_fn."
    weights = {name.removeprefix(prefix): value for name, value in case.weights.items() if name.startswith(prefix)}
    network = LPIPS("vgg", case.args["lpips_channels"])
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weights.pop(name)))
    assert not weights
    return network.set_train(False)


def check(case, name, found, names):
    for key, value in zip(names, found):
        if key and f"{name}/{key}" in case.outputs:
            case.check_outputs(f"{name}/{key}", value)


@pytest.mark.golden("loss_v1", "loss_v20_vae")
def test_reconstruction_perceptual_distance_and_divergence_match_the_original(golden_case, mode):
    args, lpips = golden_case.args, lpips_of(golden_case)
    gradients, cells = {}, {}
    for name, settings in args["cases"].items():
        if name.startswith(("stage12", "stage1_")):
            continue
        settings = {**args.get("defaults", {}), **settings}
        names = INPUTS_OF.get(name, PIXELS)
        inputs = golden_case.input_tensors(names)
        perceptual, weighted = settings["perceptual_loss_weight"], "nll_weights" in settings
        kl = 0 if settings.get("posterior", "") is None else settings["kl_loss_weight"]
        if settings.get("posterior") == FRAMEWISE:
            kl /= inputs[2].shape[2]
        if (bool(perceptual), weighted) not in cells:
            weights = golden_case.input_tensors(["nll_weights"])[0] if weighted else None
            loss = PublishedLoss(lpips if perceptual else None, weights)
            cells[bool(perceptual), weighted] = WithGradients(loss, (0, 1, 2, 3))
        scalars = [Tensor(np.float32(value)) for value in (settings["logvar_init"], perceptual, kl)]
        found, slopes = cells[bool(perceptual), weighted](*inputs, *scalars)
        check(golden_case, name, found, ("vae_loss", "nll_loss", "weighted_nll_loss", "weighted_kl_loss"))
        check(golden_case, name, found[3:], ("kl_loss",))
        gradients.update({f"{name}/{key}": value for key, value in zip((*names, "logvar"), slopes)})
    for name, names in LATENTS_OF.items():
        if name not in args["cases"]:
            continue
        inputs = golden_case.input_tensors(names)
        inputs = [*inputs, *([None] if len(inputs) == 2 else []), Tensor(np.float32(0))]
        places = tuple(place for place, value in enumerate(inputs) if value is not None)
        (total, latent, identity), slopes = WithGradients(LatentLoss(), places)(*inputs)
        golden_case.check_outputs(f"{name}/vae_loss", total)
        golden_case.check_outputs(f"{name}/latent/weighted_nll_loss", latent)
        if len(names) == 3:
            golden_case.check_outputs(f"{name}/identity/weighted_nll_loss", identity)
        gradients.update({f"{name}/{key}": value for key, value in zip((*names, "logvar"), slopes)})
        unused = "posterior_parameters" if name == "stage12_video" else "image_posterior_parameters"
        gradients[f"{name}/{unused}"] = np.zeros_like(golden_case.inputs[unused])
    golden_case.check_gradients(gradients)


@pytest.mark.golden("loss_v20_vae")
def test_distances_of_frames_match_the_original(golden_case, mode):
    video, result = golden_case.input_tensors(["video", "recon_video"])
    found = frame_distances(lpips_of(golden_case), video, result)
    golden_case.check_intermediate("lpips_per_frame", found.reshape(-1))
    values = float(np.prod(video.shape) / (video.shape[0] * video.shape[2]))
    golden_case.check_outputs("dcae_release/perceptual_loss", found.mean() * values)
    golden_case.check_outputs("dcae_release/recon_loss", negative_log_likelihood(frame_errors(video, result)))
