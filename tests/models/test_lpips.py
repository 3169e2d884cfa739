"""LPIPS against the numbers of the original, and the files it is read from."""

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindone.checkpoint import save_safetensors
from mindone.errors import UserError
from mindone.models.lpips import BACKBONES, LPIPS, load_lpips, random_lpips
from mindone.testing import golden


class _Sum(nn.Cell):
    """The sum of the distances of a batch, then what the network gives."""

    def __init__(self, network, spatial=False):
        super().__init__(auto_prefix=False)
        self.network, self.is_spatial = network, spatial

    def construct(self, first, second):
        if self.is_spatial:
            results = self.network.spatial(first, second)
            return results[0].mean((1, 2, 3)).sum(), *results
        results = self.network(first, second)
        return results[0].sum(), *results


class _Gradients(nn.Cell):
    def __init__(self, loss):
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.gradients = ops.GradOperation(get_all=True)

    def construct(self, first, second):
        def total(a, b):
            return self.loss(a, b)[0]

        return self.gradients(total)(first, second)


def of_case(case):
    args = case.args
    return case.load_into(LPIPS(args.get("net", "vgg"), args["channels"]))


@pytest.mark.golden("lpips_")
def test_distances_and_their_gradients_match_the_original(golden_case, mode):
    network = of_case(golden_case)
    inputs = golden_case.input_tensors(["in0", "in1"])
    gradients = {}
    for kind, spatial in (("mean/", False), ("spatial/", True)):
        prefix = kind if "mean/total" in golden_case.outputs else ""
        if spatial and not prefix:
            continue
        loss = _Sum(network, spatial)
        value, total, *layers = loss(*inputs)
        golden_case.check_outputs(f"{prefix}loss", value)
        for number, layer in enumerate(layers):
            golden_case.check_outputs(f"{prefix}layer{number}", layer.mean((1, 2, 3)) if spatial else layer)
        if spatial:
            golden_case.check_outputs("spatial/map", total[:1])
            golden_case.check_outputs("spatial/total_per_image", total.mean((1, 2, 3)))
        else:
            golden_case.check_outputs(f"{prefix}total", total)
        found = _Gradients(loss)(*inputs)
        gradients |= {f"{prefix}inputs/{name}": each for name, each in zip(("in0", "in1"), found)}
    golden_case.check_gradients(gradients)


@pytest.mark.golden("lpips_vgg_taming")
def test_features_match_the_original(golden_case, mode):
    network = of_case(golden_case)
    found = network.net(network.scaling_layer(golden_case.input_tensors(["in0"])[0]))
    for number, features in enumerate(found):
        golden_case.check_intermediate(f"feature_mean{number}", features.mean((2, 3)))


def random_weights(net, rng):
    """torchvision's and the package's files of a net, by their names there."""
    backbone = {"classifier.0.weight": np.ones((2, 2), np.float32)}
    for name, parameter in LPIPS(net).parameters_and_names():
        if name.startswith("net."):
            value = rng.normal(size=parameter.shape).astype(np.float32) * 0.05
            backbone[f"features.{name.split('.', 2)[2]}"] = value
    lin = {}
    for number, width in enumerate(BACKBONES[net].channels):
        lin[f"lin{number}.model.1.weight"] = rng.random((1, width, 1, 1)).astype(np.float32)
        lin[f"lins.{number}.model.1.weight"] = lin[f"lin{number}.model.1.weight"]
    return backbone, lin


def test_the_published_pair_of_files_is_read(tmp_path):
    golden.use_mode("pynative")
    rng = np.random.default_rng(0)
    backbone, lin = random_weights("alex", rng)
    save_safetensors(tmp_path / "alexnet.safetensors", backbone)
    save_safetensors(tmp_path / "alex.safetensors", lin)
    network = load_lpips(tmp_path, "alex")
    first, second = (Tensor(rng.uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)) for _ in range(2))
    assert float(network(first, second)[0].asnumpy()) > 0
    assert float(network(first, first)[0].asnumpy()) == 0
    np.testing.assert_array_equal(network.net.slice2._cells["3"].weight.asnumpy(), backbone["features.3.weight"])


def test_half_of_the_pair_or_nothing_is_refused(tmp_path):
    golden.use_mode("pynative")
    with pytest.raises(UserError, match="holds no weights of LPIPS"):
        load_lpips(tmp_path)
    save_safetensors(tmp_path / "alexnet.safetensors", random_weights("alex", np.random.default_rng(0))[0])
    with pytest.raises(UserError, match="lin0"):
        load_lpips(tmp_path, "alex")
    with pytest.raises(UserError, match="LPIPS has no net squeeze"):
        LPIPS("squeeze")


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_random_lpips_is_none_between_equal_pictures_and_grows_with_noise(net):
    lpips, rng = random_lpips(net), np.random.default_rng(0)
    picture, noise = rng.uniform(-1, 1, (2, 1, 3, 64, 64)).astype(np.float32)
    found = [
        float(lpips(Tensor(picture), Tensor(picture + strength * noise))[0].asnumpy().mean())
        for strength in (0.0, 0.1, 0.5)
    ]
    assert found[0] == 0
    assert 0 < found[1] < found[2]
    again = random_lpips(net).get_parameters()
    assert all(np.array_equal(a.asnumpy(), b.asnumpy()) for a, b in zip(lpips.get_parameters(), again))
