"""What tests of training autoencoders share: a small network of two parts, and settings that do not wait."""

TWO_PARTS = {
    "autoencoder_kl": {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [4, 4],
        "layers_per_block": 1,
        "norm_num_groups": 2,
    },
    "vae_temporal": {
        "filters": 4,
        "num_res_blocks": 1,
        "num_groups": 2,
        "channel_multipliers": [1, 1],
        "temporal_downsample": [True],
    },
}


def arguments(data, side, frames, **settings):
    """The command line of a training on the table ``videos.csv`` in a folder."""
    values = {
        "csv_path": data / "videos.csv",
        "video_folder": data,
        "image_size": side,
        "num_frames": frames,
        "frame_stride": 1,
        "batch_size": 2,
        "scheduler": "constant",
        "warmup_steps": 0,
        "num_parallel_workers": 0,
        "add_datetime": False,
        "device_target": "CPU",
        **settings,
    }
    return [token for name, value in values.items() for token in (f"--{name}", str(value))]
