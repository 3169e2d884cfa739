import numpy as np
import pytest
from mindspore import Tensor

from mindone.errors import UserError
from mindone.testing import golden
from opensora.models.inflate import inflate
from opensora.networks import autoencoder_config, build_autoencoder

SIZES = {"block_out_channels": [8], "layers_per_block": 1, "norm_num_groups": 4}


@pytest.fixture
def pair():
    """An image autoencoder, and a causal one with more latent channels that starts from it."""
    golden.use_mode("pynative")
    image = build_autoencoder(autoencoder_config("SD-VAE", None, {"autoencoder_kl": {**one_block("2D"), **SIZES}}))
    video = build_autoencoder(
        autoencoder_config(
            "Hunyuan-VAE",
            None,
            {**SIZES, "latent_channels": 6, "time_compression_ratio": 1, "spatial_compression_ratio": 1},
        )
    )
    return image, video


def one_block(kind):
    return {"down_block_types": [f"DownEncoderBlock{kind}"], "up_block_types": [f"UpDecoderBlock{kind}"]}


def arrays(network):
    return {name: parameter.asnumpy() for name, parameter in network.parameters_and_names()}


def test_a_layer_treats_every_frame_as_a_picture(pair):
    image, video = pair
    weights = inflate(arrays(image.module), arrays(video))
    layer = video.encoder.conv_in
    layer.conv.weight.set_data(Tensor(weights["encoder.conv_in.conv.weight"]))
    layer.conv.bias.set_data(Tensor(weights["encoder.conv_in.conv.bias"]))
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 6, 6)).astype(np.float32)
    result = layer(Tensor(x)).asnumpy()
    for frame in range(2):
        expected = image.module.encoder.conv_in(Tensor(np.ascontiguousarray(x[:, :, frame]))).asnumpy()
        # at the edges the causal layer repeats pixels where the other one has zeros
        np.testing.assert_allclose(result[:, :, frame, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)


def test_kernels_stand_at_the_last_frame_and_moments_keep_their_halves(pair):
    image, video = pair
    pictures, fresh = arrays(image.module), arrays(video)
    weights = inflate(pictures, fresh)
    kernel = weights["encoder.conv_in.conv.weight"]
    np.testing.assert_array_equal(kernel[:, :, -1], pictures["encoder.conv_in.weight"])
    assert not kernel[:, :, :-1].any()
    moments = weights["quant_conv.bias"]
    np.testing.assert_array_equal(moments[[0, 1, 2, 3, 6, 7, 8, 9]], pictures["quant_conv.bias"])
    np.testing.assert_array_equal(moments[[4, 5, 10, 11]], fresh["quant_conv.bias"][[4, 5, 10, 11]])


def test_an_image_autoencoder_of_other_blocks_is_refused(pair):
    image, video = pair
    pictures = arrays(image.module)
    with pytest.raises(UserError, match="has no encoder.conv_in.conv.weight"):
        inflate({name: values for name, values in pictures.items() if "conv_in" not in name}, arrays(video))
    wide = pictures | {"encoder.conv_in.weight": np.zeros((16, 3, 3, 3), np.float32)}
    with pytest.raises(UserError, match="does not fit"):
        inflate(wide, arrays(video))
