"""What sampling costs beside its network: a whole denoising loop against its network calls alone, for each version.

The first loop records what the network is called with; the other side repeats these calls. Both take turns as in
`bench.py`. The loop may take 1.05 times as long.

python benchmarks/loops.py [--families v1.2 ...] [--json out.json]
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from bench import Case, RatioConfig, compare

from mindone import runtime
from mindone.config import parse
from mindone.errors import UserError, guarded

LIMIT = 1.05
TOKENS, TEXT_WIDTH, STEPS, BATCH = 64, 256, 10, 2
SIZES = {"hidden_size": 384, "num_heads": 6}
TEXT_SIZES = {"caption_channels": TEXT_WIDTH, "model_max_length": TOKENS}
# version → sizes of its denoiser, latents (C, T, H, W), and the video's frames, height and width
LOOPS: dict[str, tuple[dict, tuple[int, ...], tuple[int, int, int]]] = {
    "v1": ({**SIZES, **TEXT_SIZES, "depth": 2}, (4, 16, 16, 16), (16, 128, 128)),
    "v1.1": ({**SIZES, **TEXT_SIZES, "depth": 2}, (4, 16, 16, 16), (16, 128, 128)),
    "v1.2": ({**SIZES, **TEXT_SIZES, "depth": 1}, (4, 15, 16, 16), (51, 128, 128)),
    "v2.0": (
        {**SIZES, "depth": 2, "depth_single_blocks": 4, "axes_dim": [16, 24, 24], "context_in_dim": TEXT_WIDTH},
        (16, 9, 16, 16),
        (33, 128, 128),
    ),
}


@dataclass
class LoopsConfig(RatioConfig):
    """Settings of this benchmark."""

    families: list[str] = field(default_factory=lambda: list(LOOPS))
    """versions to measure"""

    def check(self) -> None:
        super().check()
        for name in self.families:
            if name not in LOOPS:
                raise UserError(f"there is no family {name}; use {', '.join(LOOPS)}")


@contextlib.contextmanager
def recorded_calls() -> Iterator[list[Callable[[], np.ndarray]]]:
    """The guided network calls that are made within, each to be repeated."""
    from opensora.families.mmdit import GuidedVelocity
    from opensora.families.stdit import GuidedPrediction

    calls: list[Callable[[], np.ndarray]] = []
    with contextlib.ExitStack() as undo:
        for cell in (GuidedPrediction, GuidedVelocity):
            original = cell.__call__

            def called(self, *arguments, original=original):
                calls.append(lambda: original(self, *arguments).asnumpy())
                return original(self, *arguments)

            cell.__call__ = called
            undo.callback(delattr, cell, "__call__")
        yield calls


def loop_case(name: str) -> Case:
    """A loop of `STEPS` steps, guided, and its network calls."""
    from opensora.config.generate import Sampler
    from opensora.families import get_family, with_defaults
    from opensora.families.base import SampleRequest, initial_noise, seeded_noise
    from opensora.networks import build_denoiser, denoiser_config

    sizes, latents, video = LOOPS[name]
    family = get_family(name)
    config = denoiser_config(family.denoiser_preset, None, sizes)
    denoiser = build_denoiser(config)
    denoiser.set_train(False)
    sampler = family.sampler(denoiser, with_defaults(Sampler(sampling_steps=STEPS, guidance_scale=4.0), family))
    rng, seeds = np.random.default_rng(0), list(range(BATCH))
    text = {
        "text": rng.standard_normal((BATCH, TOKENS, TEXT_WIDTH), np.float32),
        "text_mask": np.ones((BATCH, TOKENS), np.int32),
        "pooled": rng.standard_normal((BATCH, getattr(config, "vec_in_dim", 1)), np.float32),
    }
    negative = text if family.default_negative is not None else None

    def loop() -> np.ndarray:
        request = SampleRequest(
            initial_noise(seeds, latents), text, video, 8, negative, step_noise=seeded_noise(seeds, latents, "step")
        )
        *_, last = sampler.steps(request)
        return last

    with recorded_calls() as calls:
        loop()
    what = f"{len(calls)} guided calls, width {config.hidden_size}, {BATCH} x {'x'.join(map(str, latents))}"
    return Case(what, "its calls", loop, lambda: [call() for call in calls])


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    config = parse(LoopsConfig, argv, prog="loops.py", description=__doc__.splitlines()[0])
    runtime.setup("CPU")
    cases = ((name, loop_case(name)) for name in config.families)
    return compare(cases, config, "loop | shapes | loop, ms | calls, ms", LIMIT)


if __name__ == "__main__":
    sys.exit(main())
