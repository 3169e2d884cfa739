"""Tiny networks with random weights for every version, in folders as they are published."""

import mindspore as ms
import numpy as np
import pytest
from generate_inputs import PROMPTS, TOKENS
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mindone.checkpoint import save_model
from mindone.config import parse
from mindone.data.write import write_png, write_video
from mindone.models.autoencoder_kl import AutoencoderKLConfig
from mindone.models.clip import CLIPTextConfig, CLIPTextEncoder
from mindone.models.t5 import T5Config, T5Encoder
from opensora import outputs
from opensora.config import GenerateConfig
from opensora.models.mmdit import MMDiT, MMDiTConfig
from opensora.models.stdit import STDiT, STDiTConfig
from opensora.models.stdit2 import STDiT2, STDiT2Config
from opensora.models.stdit3 import STDiT3, STDiT3Config
from opensora.models.vae_frames import FrameAutoencoderConfig, VideoAutoencoderKL
from opensora.models.vae_hunyuan import AutoencoderKLCausal3D, HunyuanAutoencoderConfig
from opensora.models.vae_temporal import TemporalAutoencoderConfig
from opensora.models.vae_v1_2 import VideoAutoencoder, VideoAutoencoderConfig

CAPTION_WIDTH, POOLED_WIDTH = 16, 12
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "moves", "left", "up"]
# Pixels and frames that are small for each version's networks.
SIZES = {"v1": (8, 4), "v1.1": (8, 8), "v1.2": (8, 34), "v2.0": (16, 41)}


def save_random(folder, network, config, extra=None):
    rng = np.random.default_rng(0)
    for name, parameter in network.parameters_and_names():
        norm = "norm" in name and name.endswith(("weight", "scale"))
        if name not in ("shift", "scale", "rope.freqs"):
            value = norm + 0.2 * rng.normal(size=parameter.shape)
            parameter.set_data(ms.Tensor(value.astype(np.float32)))
    save_model(folder, network, {**outputs.plain(config), **(extra or {})})


def save_tokenizer(folder):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


def save_text_encoders(root):
    t5 = T5Config(vocab_size=len(WORDS), d_model=CAPTION_WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    save_random(root / "t5", T5Encoder(t5), t5)
    clip = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=POOLED_WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=1,
    )
    save_random(root / "clip", CLIPTextEncoder(clip), clip, {"model_type": "clip_text_model"})
    for name in ("t5", "clip"):
        save_tokenizer(root / name)


def save_denoisers(root):
    sizes = {"hidden_size": 24, "depth": 1, "num_heads": 2}
    text = {"caption_channels": CAPTION_WIDTH, "model_max_length": TOKENS}
    networks = {"v1": (STDiT, STDiTConfig), "v1.1": (STDiT2, STDiT2Config), "v1.2": (STDiT3, STDiT3Config)}
    for version, (network, schema) in networks.items():
        config = schema(**sizes, **text)
        save_random(root / version, network(config), config)
    config = MMDiTConfig(
        in_channels=16,
        vec_in_dim=POOLED_WIDTH,
        context_in_dim=CAPTION_WIDTH,
        depth_single_blocks=1,
        axes_dim=(4, 4, 4),
        **sizes,
    )
    save_random(root / "v2.0", MMDiT(config), config)


def save_autoencoders(root):
    levels = 2
    image = AutoencoderKLConfig(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        layers_per_block=1,
        norm_num_groups=4,
    )
    temporal = TemporalAutoencoderConfig(
        filters=8, num_res_blocks=1, num_groups=4, channel_multipliers=(1, 1, 1), temporal_downsample=(True, True)
    )
    frames = FrameAutoencoderConfig(autoencoder_kl=image)
    for version in ("v1", "v1.1"):
        save_random(root / f"vae-{version}", VideoAutoencoderKL(frames), frames)
    video = VideoAutoencoderConfig(autoencoder_kl=image, vae_temporal=temporal)
    save_random(root / "vae-v1.2", VideoAutoencoder(video), video)
    causal = HunyuanAutoencoderConfig(
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        block_out_channels=(8, 8, 8),
        time_compression_ratio=4,
        spatial_compression_ratio=4,
    )
    save_random(root / "vae-v2.0", AutoencoderKLCausal3D(causal), causal)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_text_encoders(root)
    save_denoisers(root)
    save_autoencoders(root)
    return root


@pytest.fixture
def settings(folders, tmp_path):
    """Builds a config: tiny models, few small frames in two steps, into a folder without a time stamp."""

    def build(*flags, version="v1.2", **changes):
        side, frames = SIZES[version]
        values = {
            "model_version": version,
            "ckpt_path": folders / version,
            "vae_checkpoint": folders / f"vae-{version}",
            "t5_model_name_or_path": folders / "t5",
            "clip_model_name_or_path": folders / "clip",
            "model_max_length": TOKENS,
            "image_size": [side, side],
            "num_frames": frames,
            "vae_micro_batch_size": 64,
            "sampling_steps": 2,
            "seed": 7,
            "mode": 1,
            "device_target": "CPU",
            "fps": 8,
            "output_path": tmp_path / "samples",
            "append_timestr": False,
            "captions": PROMPTS[:1],
            **changes,
        }
        argv = []
        for name, value in values.items():
            if value is not None:
                argv += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        return parse(GenerateConfig, [*argv, *flags])

    return build


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """Pictures ``a.png`` and ``b.png``, and clips ``a.mp4`` and ``b.mp4`` of 70 frames, all larger than the videos."""
    folder = tmp_path_factory.mktemp("material")
    rows, columns = np.mgrid[0:24, 0:32]
    for number, name in enumerate("ab"):
        frames = [
            np.stack([(rows * 8 + 4 * t) % 256, (columns * 6 + 90 * number) % 256, np.full_like(rows, 3 * t)], -1)
            for t in range(70)
        ]
        clip = np.stack(frames).astype(np.uint8)
        write_video(folder / f"{name}.mp4", clip, 8, crf=4)
        write_png(folder / f"{name}.png", clip[:1])
    return folder
