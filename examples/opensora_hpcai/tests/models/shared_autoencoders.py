"""Encodes and decodes a video with small autoencoders: ``shared_autoencoders.py OUTPUT [RANKS]``.

``RANKS`` share the work; without it one process does all of it. Run as a script by the tests.
"""

import sys
from pathlib import Path

import numpy as np
from mindspore import Tensor

from mindone import runtime
from mindone.models.autoencoder_kl import AutoencoderKLConfig
from mindone.parallel.mesh import Mesh, make_mesh
from opensora.models.autoencoder import Autoencoder
from opensora.models.vae_hunyuan import AutoencoderKLCausal3D, HunyuanAutoencoderConfig
from opensora.models.vae_temporal import TemporalAutoencoderConfig
from opensora.models.vae_v1_2 import VideoAutoencoder, VideoAutoencoderConfig

FRAMES, SIDE = 9, 24


def autoencoders() -> dict[str, Autoencoder]:
    """That of 1.2 with chunks of 5 frames and micro batches of 2, and that of 2.0 with tiles of space and time."""
    image = AutoencoderKLConfig(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    time = TemporalAutoencoderConfig(
        filters=8, num_res_blocks=1, num_groups=4, channel_multipliers=(1, 1, 1), temporal_downsample=(True, True)
    )
    causal = HunyuanAutoencoderConfig(
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        block_out_channels=(8, 8, 8),
        spatial_compression_ratio=4,
        sample_size=16,
        sample_tsize=8,
        use_spatial_tiling=True,
        use_temporal_tiling=True,
    )
    return {
        "v1.2": VideoAutoencoder(VideoAutoencoderConfig("pipeline", image, time, 2, 5)),
        "v2.0": AutoencoderKLCausal3D(causal),
    }


def results(mesh: Mesh) -> dict[str, np.ndarray]:
    """Latents and reconstructions of the video."""
    found = {}
    video = np.random.default_rng(1).uniform(-1, 1, (1, 3, FRAMES, SIDE, SIDE)).astype(np.float32)
    for name, autoencoder in autoencoders().items():
        rng = np.random.default_rng(0)
        for parameter in autoencoder.get_parameters():
            parameter.set_data(Tensor(rng.normal(0, 0.1, parameter.shape).astype(np.float32)))
        autoencoder.set_train(False)
        autoencoder.share(mesh)
        latents = autoencoder.encode(video)
        found[f"{name}/latents"] = latents.asnumpy()
        found[f"{name}/video"] = autoencoder.decode(latents, FRAMES).asnumpy()
    return found


def main() -> None:
    output, sequence = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    runtime.setup("CPU", graph=False, use_parallel=bool(sequence))
    if sequence:
        mesh = make_mesh(sequence)
        np.savez(output / f"rank_{mesh.rank}.npz", **results(mesh))
        return
    np.savez(output / "whole.npz", **results(Mesh()))


if __name__ == "__main__":
    main()
