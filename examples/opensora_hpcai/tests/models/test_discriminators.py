"""Discriminators and their losses against the original ones."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindone.errors import UserError
from opensora.models.adversarial import (
    LeCam,
    Regularisers,
    SlopeOfLogits,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    lecam_loss,
    penalty_direction,
)
from opensora.models.discriminators import (
    BatchNorm,
    BlurredDiscriminator,
    DiscriminatorConfig,
    PatchDiscriminator,
    build_discriminator,
)
from opensora.models.vae_frames import to_images

KINDS = {
    "disc_v12_nlayer2d": "2d",
    "disc_v12_nlayer3d": "3d",
    "disc_v13_nlayer3d": "3d_v1_3",
    "disc_v20_nlayer3d": "3d_v2_0",
}
FACTOR = 0.8
LECAM, LECAM_WEIGHT = LeCam(0.3, -0.2, 0.9), 0.1


def network_of(case):
    args = case.args
    if case.stem in KINDS:
        config = DiscriminatorConfig(KINDS[case.stem], args["ndf"], args["n_layers"], args.get("dropout", 0.0))
        return case.load_into(PatchDiscriminator(config, args["input_nc"]))
    multipliers = tuple(args["channel_multipliers"])
    clip = (args["num_frames"], *args["image_size"])
    config = DiscriminatorConfig("blurred", args["filters"], len(multipliers), clip=clip)
    return case.load_into(BlurredDiscriminator(config, args["in_channels"], multipliers, args["num_groups"]))


class LastLayer(nn.Cell):
    """What stands in for an autoencoder: a layer whose results are compared, and judged."""

    def __init__(self, case, discriminator, training):
        super().__init__(auto_prefix=False)
        self.weight = Parameter(Tensor(case.inputs["last_layer"].reshape(3, -1)), name="last_layer")
        self.scale, self.flat = case.sidecar["nll_scale"], case.stem == "disc_v12_nlayer2d"
        self.discriminator = discriminator
        self.set_train(training)

    def reconstruct(self, hidden):
        batch, channels = hidden.shape[:2]
        return ops.matmul(self.weight, hidden.reshape(batch, channels, -1)).reshape(batch, 3, *hidden.shape[2:])

    def construct(self, real, hidden, kind, of_pixels, of_logits):
        video = self.reconstruct(hidden)
        rows = real.shape[0] * (real.shape[2] if self.flat else 1)
        nll = self.scale * ops.abs(real - video).sum() / rows
        logits = self.discriminator(video, False)
        judged = generator_loss(logits, kind)
        return of_pixels * nll + of_logits * judged, nll, judged, logits, video


class GradientOf(nn.Cell):
    def __init__(self, cell, weights):
        super().__init__(auto_prefix=False)
        self.value_and_grad = ops.value_and_grad(cell, None, weights, has_aux=True)

    def construct(self, *inputs):
        return self.value_and_grad(*inputs)


class Judgement(nn.Cell):
    """The discriminator's loss, with what its regularisers add if there are averages and a direction."""

    def __init__(self, discriminator, kind):
        super().__init__(auto_prefix=False)
        self.discriminator, self.kind = discriminator, kind

    def construct(self, real, fake, averages=None, direction=None):
        real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
        loss = FACTOR * discriminator_loss(real_logits, fake_logits, self.kind)
        if averages is None:
            return loss, real_logits, fake_logits
        lecam = LECAM_WEIGHT * lecam_loss(real_logits, fake_logits, averages[0], averages[1])
        loss = loss + lecam + self.discriminator.tangent(real, direction)[1].sum()
        return loss, lecam


def types(case, name):
    prefix = f"{name}_"
    return sorted({key.split("/")[1].removeprefix(prefix) for key in case.outputs if f"/{prefix}" in f"/{key}"})


def check(case, name, value):
    case.check_outputs(name, np.asarray(value, np.float32))


@pytest.mark.golden("disc_")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_autoencoder_is_judged_as_by_the_original(golden_case, mode, training):
    part = "train" if training else "eval"
    if f"{part}/fake_logits" not in golden_case.outputs:
        return
    real, hidden = golden_case.input_tensors(["real", "hidden"])
    cell = LastLayer(golden_case, network_of(golden_case), training)
    gradient = GradientOf(cell, [cell.weight])
    shape = golden_case.inputs["last_layer"].shape
    for kind in types(golden_case, "generator"):
        name = f"{part}/generator_{kind}"
        (_, nll, judged, logits, _), (of_nll,) = gradient(real, hidden, kind, 1.0, 0.0)
        _, (of_logits,) = gradient(real, hidden, kind, 0.0, 1.0)
        golden_case.check_outputs(f"{part}/fake_logits", logits)
        golden_case.check_outputs(f"{part}/nll_loss", nll)
        golden_case.check_outputs(f"{name}/loss", judged)
        huge = adaptive_weight(of_nll * 1e9, of_logits, golden_case.outputs[f"{name}/adaptive_weight_huge_nll"] / 1e4)
        golden_case.check_outputs(f"{name}/adaptive_weight_huge_nll", huge)
        factor = float(golden_case.outputs[f"{name}/adaptive_weight_huge_nll"]) / 1e4
        weight = adaptive_weight(of_nll, of_logits, factor)
        golden_case.check_outputs(f"{name}/adaptive_weight", weight)
        golden_case.check_outputs(f"{name}/weighted_loss", weight * judged)
        total = (of_nll + weight * of_logits).reshape(shape)
        golden_case.check_gradients({f"{name}/last_layer": total}, under=f"{name}/")


@pytest.mark.golden("disc_")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_discriminator_learns_as_the_original(golden_case, mode, training):
    part = "train" if training else "eval"
    if f"{part}/real_logits" not in golden_case.outputs:
        return
    real, hidden = golden_case.input_tensors(["real", "hidden"])
    fake = LastLayer(golden_case, None, False).reconstruct(hidden)
    for kind in types(golden_case, "discriminator"):
        network = network_of(golden_case).set_train(training)
        parameters = list(network.trainable_params())
        judge = Judgement(network, kind).set_train(training)
        (loss, real_logits, fake_logits), gradients = GradientOf(judge, parameters)(real, fake)
        golden_case.check_outputs(f"{part}/real_logits", real_logits)
        golden_case.check_outputs(f"{part}/fake_logits", fake_logits)
        golden_case.check_outputs(f"{part}/discriminator_{kind}/loss_times_0.8", loss)
        check_gradients(golden_case, f"{part}/discriminator_{kind}/", parameters, gradients)
        for name, parameter in network.parameters_and_names():
            if training and f"train/after/{name}" in golden_case.outputs:
                golden_case.check_outputs(f"train/after/{name}", parameter)
            elif not training:
                np.testing.assert_array_equal(parameter.asnumpy(), golden_case.weights[name])


@pytest.mark.golden("disc_v12")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_regularisers_are_those_of_the_original(golden_case, mode, training):
    part = "train" if training else "eval"
    if f"{part}/lecam_loss" not in golden_case.outputs:
        return
    real, hidden = golden_case.input_tensors(["real", "hidden"])
    network = network_of(golden_case).set_train(training)
    fake = LastLayer(golden_case, None, False).reconstruct(hidden)
    rows = to_images(real) if golden_case.stem == "disc_v12_nlayer2d" else real
    penalty, direction = penalty_direction(SlopeOfLogits(network).set_train(training)(rows).asnumpy())
    check(golden_case, f"{part}/gradient_penalty", penalty)
    averages = LeCam(LECAM.real, LECAM.fake, LECAM.decay)
    means = [golden_case.outputs[f"{part}/{kind}_logits"].mean() for kind in ("real", "fake")]
    averages.update(*means)
    check(golden_case, f"{part}/lecam_ema", [averages.real, averages.fake])
    parameters = list(network.trainable_params())
    pair = Tensor(np.array([averages.real, averages.fake], np.float32))
    judge = Judgement(network, "hinge").set_train(training)
    (_, lecam), gradients = GradientOf(judge, parameters)(rows, fake, pair, Tensor(direction))
    golden_case.check_outputs(f"{part}/lecam_loss", lecam)
    check_gradients(golden_case, f"{part}/regularised/", parameters, gradients)


def test_the_penalty_of_frames_is_that_of_each_frame_by_itself():
    network = build_discriminator(DiscriminatorConfig("2d", 4, 1)).set_train(False)
    video = Tensor(np.random.default_rng(0).normal(size=(2, 3, 3, 16, 16)).astype(np.float32))
    _, direction = Regularisers(network, 1.0, LeCam(), 0).extras(video)
    frames = to_images(video)
    slope = SlopeOfLogits(network).set_train(True)(frames).asnumpy()
    expected = penalty_direction(slope)[1]
    np.testing.assert_allclose(to_images(direction).asnumpy(), expected, rtol=1e-4, atol=1e-6)


def check_gradients(case, prefix, parameters, gradients):
    found = {f"{prefix}{parameter.name}": gradient for parameter, gradient in zip(parameters, gradients)}
    case.check_gradients(found, under=prefix)


def test_the_running_statistics_stay_where_they_are_not_to_remember(mode):
    norm = BatchNorm(3).set_train(True)
    x = Tensor(np.random.default_rng(0).normal(2, 3, (2, 3, 4, 5)).astype(np.float32))
    norm(x, False)
    assert int(norm.num_batches_tracked.asnumpy()) == 0
    y = norm(x)
    assert int(norm.num_batches_tracked.asnumpy()) == 1
    np.testing.assert_allclose(norm.running_mean.asnumpy(), 0.1 * x.asnumpy().mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(y.asnumpy().std((0, 2, 3)), 1, rtol=1e-4)


def test_fresh_kernels_of_a_patch_discriminator_are_small_and_its_gains_near_one():
    network = build_discriminator(DiscriminatorConfig(channels=16, layers=3))
    assert 0.018 < network.main[6].weight.asnumpy().std() < 0.022
    gains = network.main[7].weight.asnumpy()
    assert np.abs(gains - 1).max() < 0.1 and gains.std() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "4d"}, "discriminator 4d is not known"),
        ({"channels": 0}, "channels=0 has to be more than 0"),
        ({"kind": "blurred"}, "has to know their size"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_a_discriminator_that_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        DiscriminatorConfig(**changes)
