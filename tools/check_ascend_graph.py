"""Compiles networks at their published sizes for Ascend, through MindSpore's front end, without an Ascend.

bfloat16 and Ascend's kernels (flash attention and the rest of `mindone.nn`) are selected; parameters get no memory.
Mistakes in shapes, dtypes and syntax fail here as they would on the device, and so does an operator that was compiled
for a CPU (`Custom`). Kernel selection and execution are not covered.

python tools/check_ascend_graph.py --all
python tools/check_ascend_graph.py stdit3-train
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ascend_cases import (
    autoencoder_forward,
    autoencoder_train,
    bfloat16,
    discriminator_train,
    dit_forward,
    one_of,
    pixart_forward,
    short_rotary,
    step_cache_mmdit,
    step_cache_part,
    step_cache_rows,
    training,
    update_scalars,
    vae_forward,
    vae_train,
    zero_train,
    zeros,
)

from mindone import runtime
from mindone.errors import UserError, guarded


@dataclass(frozen=True)
class Case:
    """One graph: ``build`` returns the cell and its inputs; operators in ``needs`` must occur in the graph."""

    about: str
    build: Callable[[], tuple]
    needs: tuple[str, ...] = ()


def _stdit3(train: bool):
    from opensora.models.stdit3 import STDiT3, STDiT3_PRESETS

    return bfloat16(STDiT3(STDiT3_PRESETS["STDiT3-XL/2"], use_recompute=train))


def _stdit3_forward() -> tuple:
    """Guided velocity of 102 frames of 720x1280."""
    from opensora.families.stdit import GuidedPrediction

    cell = GuidedPrediction(_stdit3(train=False))
    text = (zeros(1, 1, 300, 4096), zeros(1, 300))
    return cell.set_train(False), (
        zeros(1, 4, 30, 90, 160),
        zeros(1),
        *text,
        None,
        None,
        None,
        zeros(1),
        *[zeros(1)] * 3,
    )


def _stdit3_train() -> tuple:
    """A whole update at 51 frames of 720x1280: loss, gradients, clipping, AdamW, EMA."""
    from mindspore import int32, ops

    from opensora.families.stdit import FlowLoss

    latents = zeros(1, 4, 15, 90, 160)
    text, text_mask = zeros(1, 1, 300, 4096), ops.zeros((1, 300), int32)
    conditions = [zeros(1)] * 3
    inputs = (latents, latents, zeros(1), text, text_mask, ops.zeros((1,), int32), None, *conditions)
    return training(FlowLoss(_stdit3(train=True))), (*update_scalars(), *inputs)


def _stdit3_shared_train(way: str) -> tuple:
    """The update of one of four ranks that share 51 frames of 720x1280, two pairs of blocks; frames are uneven."""
    from dataclasses import replace

    from mindspore import int32, ops

    from mindone.parallel.collectives import Mean
    from mindone.parallel.sequence import make_strategy
    from opensora.families.stdit import FlowLoss
    from opensora.models.stdit3 import STDiT3, STDiT3_PRESETS

    mesh = one_of(4)
    config = replace(STDiT3_PRESETS["STDiT3-XL/2"], depth=2)
    denoiser = bfloat16(STDiT3(config, make_strategy(mesh, way), use_recompute=True))
    latents, conditions = zeros(1, 4, 15, 90, 160), [zeros(1)] * 3
    text = (zeros(1, 1, 300, 4096), ops.zeros((1, 300), int32))
    inputs = (latents, latents, zeros(1), *text, ops.zeros((1,), int32), None, *conditions)
    return training(FlowLoss(denoiser), Mean(mesh)), (*update_scalars(), *inputs)


def _stdit3_lora_train() -> tuple:
    """A whole update of an adapter of two pairs of blocks at 51 frames of 720x1280, over weights in bfloat16."""
    from dataclasses import replace

    from mindspore import bfloat16, int32, ops

    from mindone.adapters import LoraConfig, add_lora
    from mindone.nn import set_compute_dtype
    from opensora.families.stdit import FlowLoss
    from opensora.models.stdit3 import STDiT3, STDiT3_PRESETS

    denoiser = STDiT3(replace(STDiT3_PRESETS["STDiT3-XL/2"], depth=2), use_recompute=True)
    set_compute_dtype(denoiser, bfloat16, store=True)
    add_lora(denoiser, LoraConfig(rank=16, alpha=16))
    latents, conditions = zeros(1, 4, 15, 90, 160), [zeros(1)] * 3
    text = (zeros(1, 1, 300, 4096), ops.zeros((1, 300), int32))
    inputs = (latents, latents, zeros(1), *text, ops.zeros((1,), int32), None, *conditions)
    return training(FlowLoss(denoiser)), (*update_scalars(), *inputs)


def _lora_dropout() -> tuple:
    """A whole update of the adapters of an MLP, with dropout."""
    from mindspore import int32, nn, ops

    from mindone.adapters import LoraConfig, add_lora
    from mindone.adapters.dropout import SeededLoss
    from mindone.nn.layers import Mlp

    class SquareLoss(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.network = bfloat16(Mlp(1152, 4608, 1152))

        def construct(self, x):
            return ops.square(self.network(x)).mean()

    loss = SquareLoss()
    lora = add_lora(loss, LoraConfig(targets=("fc1", "fc2"), dropout=0.1))
    inputs = (ops.zeros((2,), int32), zeros(1, 3600, 1152))
    return training(SeededLoss(loss, lora.seeds)), (*update_scalars(), *inputs)


def _factorized(preset: str, train: bool):
    """STDiT or STDiT2."""
    from opensora.networks import build_denoiser, denoiser_config

    return bfloat16(build_denoiser(denoiser_config(preset), recompute=train))


def _stdit_forward() -> tuple:
    """Both halves of guidance at 16 frames of 512x512."""
    return _factorized("STDiT-XL/2", train=False).set_train(False), _stdit_inputs(2, 16)


def _stdit_train() -> tuple:
    """A whole update at 64 frames of 512x512."""
    inputs = _stdit_inputs(4, 64)
    return training(_noise_loss(_factorized("STDiT-XL/2", train=True))), (*update_scalars(), inputs[0], *inputs)


def _stdit_inputs(batch: int, frames: int) -> tuple:
    return zeros(batch, 4, frames, 64, 64), zeros(batch), zeros(batch, 1, 120, 4096), zeros(batch, 120)


def _stdit2_forward() -> tuple:
    """Both halves of guidance at 16 frames of 480x854, some of them given."""
    return _factorized("STDiT2-XL/2", train=False).set_train(False), _stdit2_inputs(2)


def _stdit2_train() -> tuple:
    """A whole update at 16 frames of 480x854, some of them given."""
    inputs = _stdit2_inputs(1)
    return training(_noise_loss(_factorized("STDiT2-XL/2", train=True))), (*update_scalars(), inputs[0], *inputs)


def _stdit2_rows_train() -> tuple:
    """A whole update with the loss of 1.1 on rows of patches, 16 frames with room for 512x512, some of them given."""
    import mindspore as ms
    from mindspore import bool_, ops

    from mindone.diffusion.iddpm import DiffusionConfig
    from opensora.families.diffusion import DiffusionLoss
    from opensora.families.packed import PackedDenoiser, packing_of

    denoiser = _factorized("STDiT2-XL/2", train=True)
    rows = packing_of(denoiser.config, 512)
    latents = zeros(1, 4, 16, rows.patch[1], rows.length * rows.patch[2])
    conditions = (*[zeros(1)] * 5, zeros(1, rows.length, rows.hidden_size), zeros(1, rows.length))
    inputs = (latents, latents, ops.zeros((1,), ms.int32), zeros(1, 11), zeros(1, 1, 200, 4096), zeros(1, 200))
    loss = DiffusionLoss(PackedDenoiser(denoiser), DiffusionConfig(learn_sigma=True), rows.patch[2])
    frames_mask = ops.zeros((1, 16), bool_)
    return training(loss), (*update_scalars(), *inputs, ops.zeros((1,), ms.int32), frames_mask, *conditions)


def _stdit2_inputs(batch: int) -> tuple:
    from mindspore import bool_, ops

    text = (zeros(batch, 1, 200, 4096), zeros(batch, 200))
    frames_mask = ops.zeros((batch, 16), bool_)
    return zeros(batch, 4, 16, 60, 106), zeros(batch), *text, frames_mask, *[zeros(batch)] * 5


def _noise_loss(denoiser):
    """Squared error of the first half of the channels: ``(noise, *inputs) -> loss``."""
    from mindspore import nn, ops

    class NoiseLoss(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.denoiser = denoiser

        def construct(self, noise, *inputs):
            return ops.square(self.denoiser(*inputs)[:, : noise.shape[1]] - noise).mean()

    return NoiseLoss()


def _mmdit(preset: str, train: bool = False):
    from opensora.models.mmdit import MMDIT_PRESETS, MMDiT

    return bfloat16(MMDiT(MMDIT_PRESETS[preset], recompute=train)).set_train(train)


def _mmdit_inputs(config, batch: int, grid: tuple[int, int, int]) -> tuple:
    """Packed latents of a grid of tokens, 512 text tokens, time, pooled text, and what else the config asks for."""
    tokens = math.prod(grid)
    img, txt = zeros(batch, tokens, config.in_channels), zeros(batch, 512, config.context_in_dim)
    cond = zeros(batch, tokens, config.cond_channels) if config.cond_embed else None
    guidance = zeros(batch) if config.guidance_embed else None
    vectors = (zeros(batch), zeros(batch, config.vec_in_dim))
    return img, zeros(1, tokens, 3), txt, zeros(1, 512, 3), *vectors, cond, guidance


def _mmdit_forward() -> tuple:
    """The three branches of guidance at 129 frames of 768x768."""
    denoiser = _mmdit("MMDiT-11B")
    return denoiser, _mmdit_inputs(denoiser.config, 3, (33, 48, 48))


def _mmdit_guided() -> tuple:
    """Guided velocity of 129 frames of 576x1024, the three branches inside; two blocks of each kind at full width."""
    from dataclasses import replace

    from opensora.families.mmdit import GuidedVelocity
    from opensora.models.mmdit import MMDIT_PRESETS, MMDiT

    config = replace(MMDIT_PRESETS["MMDiT-11B"], depth=2, depth_single_blocks=2)
    cell = GuidedVelocity(bfloat16(MMDiT(config)), branches=3).set_train(False)
    latents, condition = zeros(1, 16, 33, 72, 128), zeros(1, 17, 33, 72, 128)
    texts = (zeros(2, 512, config.context_in_dim), zeros(1), zeros(2, config.vec_in_dim))
    scales = (zeros(1), zeros(1)[0], zeros(33))
    return cell, (latents, zeros(1, 33 * 36 * 64, 3), *texts, condition, *scales)


def _flux_forward() -> tuple:
    """One picture of 768x768."""
    denoiser = _mmdit("Flux.1-dev")
    return denoiser, _mmdit_inputs(denoiser.config, 1, (1, 48, 48))


def _mmdit_train() -> tuple:
    """A whole update at 129 frames of 256x256."""
    return _mmdit_update(_mmdit("MMDiT-11B", train=True))


def _mmdit_ring_train() -> tuple:
    """The update of one of three ranks that share 129 frames of 256x256, a block of each kind; tokens are uneven."""
    from dataclasses import replace

    from mindone.parallel.collectives import Mean
    from mindone.parallel.sequence import make_strategy
    from opensora.models.mmdit import MMDIT_PRESETS, MMDiT

    mesh, config = one_of(3), replace(MMDIT_PRESETS["MMDiT-11B"], depth=1, depth_single_blocks=1)
    return _mmdit_update(bfloat16(MMDiT(config, make_strategy(mesh, "ring"), recompute=True)), Mean(mesh))


def _mmdit_update(denoiser, *mean) -> tuple:
    from mindspore import nn, ops

    class VelocityLoss(nn.Cell):
        def __init__(self, denoiser):
            super().__init__(auto_prefix=False)
            self.denoiser = denoiser

        def construct(self, target, *inputs):
            return ops.square(self.denoiser(*inputs) - target).mean()

    inputs = _mmdit_inputs(denoiser.config, 1, (33, 16, 16))
    return training(VelocityLoss(denoiser), *mean), (*update_scalars(), inputs[0], *inputs)


def _t5_forward() -> tuple:
    from mindspore import int32, ops

    from mindone.models.t5 import T5Config, T5Encoder

    return bfloat16(T5Encoder(T5Config())).set_train(False), (ops.zeros((1, 512), int32),)


def _clip_forward() -> tuple:
    from mindspore import int32, ops

    from mindone.models.clip import CLIPTextConfig, CLIPTextEncoder

    return bfloat16(CLIPTextEncoder(CLIPTextConfig())).set_train(False), (ops.zeros((1, 77), int32),)


CASES = {
    "short-rotary": Case("rotary embedding of few frames, from single operators", short_rotary, ("Cast", "Mul")),
    "dit-forward": Case("DiT-XL/2, 2 x 16 x 256 x 256", partial(dit_forward, "DiT-XL/2"), ("FlashAttentionScore",)),
    "latte-forward": Case(
        "Latte-XL/2, 2 x 16 x 256 x 256", partial(dit_forward, "Latte-XL/2"), ("FlashAttentionScore",)
    ),
    "pixart-forward": Case(
        "PixArtMS-XL/2, 2 x 16 x 256 x 256", partial(pixart_forward, "PixArtMS-XL/2"), ("FlashAttentionScore",)
    ),
    "step-cache-compute": Case(
        "a step of TeaCache that computes, STDiT3", partial(step_cache_part, "compute"), ("FlashAttentionScore",)
    ),
    "step-cache-repeat": Case("a step of TeaCache without blocks, STDiT3", partial(step_cache_part, "repeat")),
    "step-cache-forecast": Case(
        "a step of TeaCache without blocks, forecast and compared, STDiT3", partial(step_cache_part, "forecast")
    ),
    "step-cache-mmdit": Case("a step of TeaCache without blocks, forecast and compared, MMDiT", step_cache_mmdit),
    "step-cache-chosen": Case("rows of two steps", step_cache_rows, ("Select",)),
    "step-cache-broadcast": Case(
        "a step of PAB, STDiT3", partial(step_cache_part, "broadcast"), ("FlashAttentionScore",)
    ),
    "stdit-forward": Case("STDiT-XL/2, 2 x 16 x 512 x 512", _stdit_forward, ("FlashAttentionScore",)),
    "stdit-train": Case("STDiT-XL/2, training update, 4 x 64 x 512 x 512", _stdit_train, ("FlashAttentionScoreGrad",)),
    "stdit2-forward": Case(
        "STDiT2-XL/2, 2 x 16 x 480 x 854, given frames", _stdit2_forward, ("FlashAttentionScore", "RmsNorm")
    ),
    "stdit2-train": Case(
        "STDiT2-XL/2, training update, 16 x 480 x 854, given frames",
        _stdit2_train,
        ("FlashAttentionScoreGrad", "RmsNormGrad"),
    ),
    "stdit2-rows-train": Case(
        "STDiT2-XL/2, training update in rows of patches, 16 x 512 x 512",
        _stdit2_rows_train,
        ("FlashAttentionScoreGrad", "RmsNormGrad"),
    ),
    "stdit3-forward": Case(
        "STDiT3-XL/2, guided velocity, 102 x 720 x 1280", _stdit3_forward, ("FlashAttentionScore", "RmsNorm")
    ),
    "stdit3-train": Case(
        "STDiT3-XL/2, training update, 51 x 720 x 1280", _stdit3_train, ("FlashAttentionScoreGrad", "RmsNormGrad")
    ),
    "stdit3-ulysses-train": Case(
        "STDiT3-XL/2, training update shared by tokens, 51 x 720 x 1280, two pairs of blocks",
        partial(_stdit3_shared_train, "ulysses"),
        ("AlltoAllV", "AllReduce", "FlashAttentionScoreGrad"),
    ),
    "stdit3-dsp-train": Case(
        "STDiT3-XL/2, training update shared by frames and tokens, 51 x 720 x 1280, two pairs of blocks",
        partial(_stdit3_shared_train, "dsp"),
        ("AlltoAllV", "AllReduce", "FlashAttentionScoreGrad"),
    ),
    "stdit3-zero2-train": Case(
        "STDiT3-XL/2, training update with slices of optimizer and gradients, 51 x 720 x 1280, two pairs of blocks",
        partial(zero_train, 2),
        ("ReduceScatter", "AllGather", "AllReduce", "FlashAttentionScoreGrad"),
    ),
    "stdit3-zero3-train": Case(
        "STDiT3-XL/2, training update with slices of weights too, 51 x 720 x 1280, two pairs of blocks",
        partial(zero_train, 3),
        ("ReduceScatter", "AllGather", "AllReduce", "FlashAttentionScoreGrad"),
    ),
    "stdit3-lora-train": Case(
        "STDiT3-XL/2, training update of an adapter, 51 x 720 x 1280, two pairs of blocks",
        _stdit3_lora_train,
        ("FlashAttentionScoreGrad", "RmsNormGrad"),
    ),
    "lora-dropout": Case("training update of an MLP's adapters with dropout", _lora_dropout, ("MatMul", "FloorMod")),
    "vae-forward": Case("autoencoder 1.2, encode and decode, 17 x 256 x 256", vae_forward, ("Conv2D", "Conv3D")),
    "vae-train": Case("autoencoder 1.2, training update, 17 x 256 x 256", vae_train, ("Conv2D", "Conv3D")),
    "mmdit-forward": Case(
        "Open-Sora 2.0, velocities of three branches, 129 x 768 x 768", _mmdit_forward, ("FlashAttention", "RmsNorm")
    ),
    "mmdit-guided": Case(
        "Open-Sora 2.0, guided velocity with something given, 129 x 576 x 1024, two blocks of each kind",
        _mmdit_guided,
        ("FlashAttention", "RmsNorm"),
    ),
    "mmdit-train": Case(
        "Open-Sora 2.0, training update, 129 x 256 x 256", _mmdit_train, ("FlashAttentionScoreGrad", "RmsNormGrad")
    ),
    "mmdit-ring-train": Case(
        "Open-Sora 2.0, training update shared by tokens in a ring, 129 x 256 x 256, a block of each kind",
        _mmdit_ring_train,
        ("AlltoAllV", "AllReduce", "FlashAttentionScoreGrad"),
    ),
    "flux-forward": Case("Flux.1-dev, velocity of 768 x 768", _flux_forward, ("FlashAttention", "RmsNorm")),
    "t5-xxl-forward": Case("T5 v1.1 XXL, 512 tokens", _t5_forward, ("RmsNorm",)),
    "clip-forward": Case("CLIP ViT-L/14 text, 77 tokens", _clip_forward, ("FlashAttention", "LayerNorm")),
    "flux-ae-forward": Case(
        "Flux autoencoder, encode and decode, 1 x 768 x 768",
        partial(autoencoder_forward, "Flux-AE", 1, 768, 768),
        ("Conv2D", "FlashAttentionScore"),
    ),
    "hunyuan-vae-forward": Case(
        "causal autoencoder, encode and decode, 17 x 256 x 256",
        partial(autoencoder_forward, "Hunyuan-VAE", 17, 256, 256),
        ("Conv3D", "FlashAttentionScore"),
    ),
    "dc-ae-forward": Case(
        "DC-AE, encode and decode, 32 x 256 x 256",
        partial(autoencoder_forward, "Video-DC-AE", 32, 256, 256),
        ("Conv3D", "Conv2D"),
    ),
    "hunyuan-vae-train": Case(
        "causal autoencoder, training update, 17 x 256 x 256",
        partial(autoencoder_train, "Hunyuan-VAE", 17, 256, 256),
        ("Conv3D", "FlashAttentionScoreGrad"),
    ),
    "dc-ae-train": Case(
        "DC-AE, training update, 32 x 256 x 256",
        partial(autoencoder_train, "Video-DC-AE", 32, 256, 256),
        ("Conv3D", "Conv2D"),
    ),
    "discriminator-train": Case(
        "discriminator of the DC-AE, training update, 32 x 256 x 256",
        partial(discriminator_train, 32, 256, 256),
        ("Conv3D",),
    ),
}


def check(name: str) -> bool:
    """Compiles one case, prints parameters, operators and time, and tells whether the graph is as it should be."""
    case, start = CASES[name], time.perf_counter()
    with runtime.use_kernels("Ascend"), runtime.lazy_parameters():
        cell, inputs = case.build()
        graph = runtime.compile_front_end(cell, *inputs)
    operators = graph.operators
    # What an update is made of does not contain the loss as a cell.
    sizes = {p.name: math.prod(p.shape) for p in getattr(cell, "counted", cell).get_parameters()}
    null_caption = sum(size for name, size in sizes.items() if name.endswith("y_embedding"))
    common = sorted(operators.items(), key=lambda item: -item[1])[:12]
    print(f"{name}: {case.about}")
    apart = f" and the null caption's {null_caption:,}" if null_caption else ""
    print(f"  parameters  {sum(sizes.values()) - null_caption:,}{apart}")
    print(f"  operators   {sum(operators.values()):,}: " + ", ".join(f"{kind} {count}" for kind, count in common))
    for kind, sizes in graph.sent.items():
        print(f"  {kind:11} {len(sizes)}, with results of {sum(sizes):,} bytes")
    peak = runtime.peak_memory() / 1e9
    print(f"  time        {time.perf_counter() - start:.0f} s, peak memory {peak:.1f} GB")
    missing = [kind for kind in case.needs if not any(found.startswith(kind) for found in operators)]
    if missing:
        print(f"  FAILED      the graph has no {', '.join(missing)}")
    if "Custom" in operators:
        print(f"  FAILED      the graph has {operators['Custom']} Custom, which are compiled for a CPU")
    return not missing and "Custom" not in operators


@guarded
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"which graphs: {', '.join(CASES)}")
    parser.add_argument("--all", action="store_true", help="all of them")
    args = parser.parse_args(argv)
    names = list(CASES) if args.all else args.cases
    unknown = [name for name in names if name not in CASES]
    if unknown or not names:
        raise UserError(f"say which graphs: {', '.join(CASES)}, or --all" + (f"; not {unknown[0]}" if unknown else ""))
    if len(names) == 1:
        runtime.setup("CPU")
        return 0 if check(names[0]) else 1
    # What the front end has allocated it keeps until the process ends.
    failed = [name for name in names if subprocess.run([sys.executable, __file__, name]).returncode]
    print(f"{len(names) - len(failed)} of {len(names)} graphs compile as they should")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
