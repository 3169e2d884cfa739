"""The adversarial stage of autoencoders, on small videos."""

import json
import math
import re
import shutil

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from tiny_vae import arguments

from mindone.checkpoint import read_tensors
from mindone.config import parse
from mindone.data.write import write_video
from mindone.errors import UserError
from mindone.nn.conv import Conv3d
from mindone.parallel.mesh import make_mesh
from mindone.testing import golden
from opensora.config import TrainVaeConfig
from opensora.models.autoencoder import Autoencoder
from opensora.models.discriminators import DiscriminatorConfig, build_discriminator, require_size
from opensora.networks import autoencoder_config, build_autoencoder
from opensora.training import autoencoder as training
from opensora.training.adversarial import discriminator_config, last_layer, make_adversarial_step

CLIPS, FRAMES, SIDE = 4, 5, 16
IMAGES = {
    "autoencoder_kl": {
        "down_block_types": ["DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D"],
        "block_out_channels": [4],
        "layers_per_block": 1,
        "norm_num_groups": 2,
    },
}
PARTS = ["generator", "weight", "discriminator", "real_logits", "fake_logits"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for i in range(CLIPS):
        write_video(root / f"clip{i}.mp4", rng.integers(0, 255, (FRAMES, SIDE, SIDE, 3), np.uint8), fps=8)
    (root / "videos.csv").write_text("path\n" + "".join(f"clip{i}.mp4\n" for i in range(CLIPS)))
    return root


@pytest.fixture
def settings(data, tmp_path):
    def build(**changes):
        values = {
            "model_type": "VideoAutoencoderKL",
            "vae": json.dumps(IMAGES),
            "use_real_rec_loss": True,
            "perceptual_loss_weight": 0,
            "use_discriminator": True,
            "discriminator": json.dumps({"channels": 4, "layers": 1}),
            "train_steps": 3,
            "ckpt_save_steps": 1,
            "start_learning_rate": 0.001,
            "discriminator_learning_rate": 0.01,
            "output_path": tmp_path / "output",
            "seed": 3,
            "log_interval": 1,
            **changes,
        }
        return parse(TrainVaeConfig, arguments(data, SIDE, FRAMES, **values))

    return build


def logged(text, name):
    """The values of a part of the loss in the log's lines, one per update."""
    return [float(value) for value in re.findall(rf" {name} (-?[\d.]+|nan)", text)]


def checkpoint(run, step):
    (folder,) = [path for path in (run / "ckpt").iterdir() if path.name.endswith(str(step))]
    return folder


def judge_at(run, step):
    return {
        name: np.asarray(value) for name, value in read_tensors(checkpoint(run, step) / "judge.safetensors").items()
    }


def test_both_networks_learn_and_a_run_that_goes_on_is_the_same_bit_by_bit(settings, tmp_path, caplog):
    caplog.set_level("INFO")
    whole = training.train(settings(output_path=tmp_path / "whole", ckpt_max_keep=9, mode=1))
    for name in ("loss", *PARTS):
        values = logged(caplog.text, name)
        assert len(values) == 3 and all(map(math.isfinite, values))
    assert min(logged(caplog.text, "weight")) > 0
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(checkpoint(tmp_path / "killed", 3))
    shutil.rmtree(tmp_path / "killed/model")
    resumed = training.train(settings(output_path=tmp_path / "killed", resume=True, mode=1))
    one, other = read_tensors(whole), read_tensors(resumed)
    assert all(np.array_equal(np.asarray(one[name]), np.asarray(other[name])) for name in one)
    judges = [judge_at(tmp_path / name, 3) for name in ("whole", "killed")]
    assert all(np.array_equal(judges[0][name], judges[1][name]) for name in judges[0])
    before = judge_at(tmp_path / "whole", 2)
    assert any(not np.array_equal(before[name], judges[0][name]) for name in before if name.endswith("weight"))
    # The running statistics saw what was made, then real videos, then what was made again.
    assert int(judges[0]["main.3.num_batches_tracked"]) == 3 * 3


class OneLayer(nn.Cell):
    """What stands in for an autoencoder's loss."""

    def __init__(self):
        super().__init__()
        self.decoder = Conv3d(3, 3, (1, 1, 1))

    def reconstructed(self, x, noise):
        video = self.decoder(x + noise)
        return ops.abs(x - video).mean(), ops.zeros((), ms.float32), (), video


@pytest.mark.parametrize(
    ("kind", "losses"),
    [
        ("2d", ("hinge", "hinge")),
        ("3d", ("vanilla", "non-saturating")),
        ("3d_v1_3", ("wgan-gp", "hinge")),
        ("3d_v2_0", ("non-saturating", "non-saturating")),
        ("blurred", ("hinge", "hinge")),
    ],
)
def test_every_discriminator_can_be_trained_with_its_regularisers(settings, kind, losses):
    golden.use_mode("graph")
    frames = 9 if kind == "3d" else FRAMES
    shape = {"kind": kind, "channels": 32 if kind == "blurred" else 4, "layers": 1}
    config = settings(
        num_frames=frames,
        discriminator=json.dumps(shape),
        discriminator_loss_type=losses[0],
        generator_loss_type=losses[1],
        lecam_loss_weight=0.1,
        gradient_penalty_loss_weight=1.0,
    )
    loss, rng = OneLayer(), np.random.default_rng(0)
    step = make_adversarial_step(config, loss, loss, make_mesh(), 3)
    parameters = {name: value for name, value in step.network.parameters_and_names() if value.requires_grad}
    before = {name: value.asnumpy().copy() for name, value in parameters.items()}
    x, noise = (Tensor(rng.normal(size=(2, 3, frames, SIDE, SIDE)).astype(np.float32)) for _ in range(2))
    result = step([(x, 0.1 * noise)], 0.001)
    assert bool(result.finite.asnumpy()) and all(np.isfinite(value.asnumpy()) for value in result.aux)
    assert not [name for name, value in parameters.items() if np.array_equal(value.asnumpy(), before[name])]
    averages = step.inputs.averages
    assert averages.real == pytest.approx(0.001 * float(result.aux[-2].asnumpy()))


def test_nothing_of_the_discriminator_changes_before_its_start(settings):
    golden.use_mode("graph")
    loss, rng = OneLayer(), np.random.default_rng(0)
    step = make_adversarial_step(settings(discriminator_start=2), loss, loss, make_mesh(), 3)
    weight = step.network.main[0].weight
    inputs = [Tensor(rng.normal(size=(2, 3, FRAMES, SIDE, SIDE)).astype(np.float32)) for _ in range(2)]
    weights, kernels = [], [weight.asnumpy().copy()]
    for update in range(3):
        weights.append(float(step([inputs], 0.001, update).aux[1].asnumpy()) > 0)
        kernels.append(weight.asnumpy().copy())
    assert weights == [False, False, True]
    assert [np.array_equal(one, other) for one, other in zip(kernels, kernels[1:])] == [True, True, False]


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (DiscriminatorConfig("3d", 4, 3), (3, 64, 64), "no logits for videos of 3x64x64"),
        (DiscriminatorConfig("3d_v2_0", 4, 5), (1, 64, 64), None),
        (DiscriminatorConfig("2d", 4, 3), (1, 16, 16), "no logits"),
        (DiscriminatorConfig("2d", 4, 3), (1, 32, 32), None),
        (DiscriminatorConfig("blurred", 32, 1, clip=(5, 16, 16)), (1, 16, 16), "clips of one size, not of 1x16x16"),
    ],
)
def test_videos_that_leave_no_logits_are_refused(config, size, message):
    if message is None:
        require_size(config, size)
        video = Tensor(np.zeros((1, 3, *size), np.float32))
        assert min(build_discriminator(config)(video).shape) > 0
    else:
        with pytest.raises(UserError, match=message):
            require_size(config, size)


@pytest.mark.parametrize(
    ("name", "changes", "layer"),
    [
        ("SD-VAE", {}, "module.decoder.conv_out.weight"),
        ("Hunyuan-VAE", {}, "decoder.conv_out.conv.weight"),
        ("Flux-AE", {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1}, "decoder.conv_out.weight"),
        ("OpenSora-VAE-v1.2", {}, "spatial_vae.module.decoder.conv_out.weight"),
        ("Video-DC-AE", {}, "decoder.project_out.op_list.2.conv.weight"),
    ],
)
def test_the_last_layer_is_the_one_that_makes_pixels(name, changes, layer):
    from mindone import runtime

    with runtime.lazy_parameters():
        autoencoder = build_autoencoder(autoencoder_config(name, None, changes))
    assert isinstance(autoencoder, Autoencoder)
    names = {id(parameter): place for place, parameter in autoencoder.parameters_and_names()}
    assert names[id(last_layer(autoencoder))] == layer


def test_a_discriminator_of_clips_takes_their_size_from_the_data(settings):
    config = settings(discriminator=json.dumps({"kind": "blurred", "channels": 32, "layers": 1}))
    assert discriminator_config(config.loss, (FRAMES, SIDE, SIDE)).clip == (FRAMES, SIDE, SIDE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_real_rec_loss": False}, "use_discriminator judges pixels; set use_real_rec_loss"),
        ({"use_discriminator": False}, "discriminator belongs to use_discriminator"),
        ({"discriminator": '{"kind": "4d"}'}, "kind"),
        ({"discriminator": '{"depth": 3}'}, "depth"),
        ({"generator_factor": -1}, "generator_factor=-1"),
    ],
)
def test_what_cannot_work_is_refused_by_name(settings, changes, message):
    with pytest.raises(UserError, match=message):
        training.train(settings(**changes))
