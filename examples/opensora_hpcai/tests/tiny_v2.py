"""The networks of Open-Sora 2.0, tiny and with random weights, in folders as they are published."""

import json

import mindspore as ms
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mindone.checkpoint import save_model
from mindone.models.clip import CLIPTextConfig, CLIPTextEncoder
from mindone.models.t5 import T5Config, T5Encoder
from opensora import outputs
from opensora.models.mmdit import MMDiT, MMDiTConfig
from opensora.models.vae_flux import FluxAutoencoder, FluxAutoencoderConfig
from opensora.models.vae_hunyuan import AutoencoderKLCausal3D, HunyuanAutoencoderConfig

T5_WIDTH, CLIP_WIDTH, LATENT_CHANNELS = 16, 12, 4
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "moves", "left", "up", "4", "24"]
DENOISER = MMDiTConfig(
    in_channels=LATENT_CHANNELS * 4,
    vec_in_dim=CLIP_WIDTH,
    context_in_dim=T5_WIDTH,
    hidden_size=24,
    num_heads=2,
    depth=1,
    depth_single_blocks=1,
    axes_dim=(2, 4, 6),
)


def save_random(folder, network, config, seed=0):
    """A model folder; all numbers of the network are small and random, its norms and scales stay near one."""
    rng = np.random.default_rng(seed)
    for name, parameter in network.parameters_and_names():
        near_one = parameter.ndim == 1 and not name.endswith("bias")
        value = near_one + 0.2 * rng.normal(size=parameter.shape)
        if name == "quant_conv.bias":
            value[LATENT_CHANNELS:] = -40  # logarithms of variances: latents are their means
        parameter.set_data(ms.Tensor(value.astype(np.float32)))
    save_model(folder, network, outputs.plain(config))


def save_networks(root):
    """``denoiser``, ``flux``, ``vae``, ``flux_vae``, ``t5`` and ``clip`` in a folder."""
    save_random(root / "denoiser", MMDiT(DENOISER), DENOISER)
    flux = MMDiTConfig(**{**outputs.plain(DENOISER), "guidance_embed": True, "cond_embed": False, "fused_qkv": True})
    save_random(root / "flux", MMDiT(flux), flux, seed=1)
    vae = HunyuanAutoencoderConfig(
        latent_channels=LATENT_CHANNELS, layers_per_block=1, norm_num_groups=2, block_out_channels=(4, 4, 4, 4)
    )
    save_random(root / "vae", AutoencoderKLCausal3D(vae), vae)
    flux_vae = FluxAutoencoderConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, z_channels=LATENT_CHANNELS)
    save_random(root / "flux_vae", FluxAutoencoder(flux_vae), flux_vae)
    _save_t5(root / "t5")
    _save_clip(root / "clip")


def _save_t5(folder):
    config = T5Config(vocab_size=len(WORDS), d_model=T5_WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    save_random(folder, T5Encoder(config), config)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


def _save_clip(folder):
    letters = "abcdefghijklmnopqrstuvwxyz0123456789."
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    sizes = {
        "vocab_size": len(vocabulary),
        "hidden_size": CLIP_WIDTH,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    save_random(folder, CLIPTextEncoder(CLIPTextConfig.from_dict(sizes)), {"model_type": "clip", "text_config": sizes})
    special = {"bos_token": "<|startoftext|>"} | dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
