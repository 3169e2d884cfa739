"""The memory of generating a video, against that of its largest stage: text, latents and pixels, each by itself.

Networks are loaded when they are needed and dropped after their stage, so that a whole run may have a peak of 1.1 times
that of its largest stage. Each measurement is a process of its own; its peak counts from the moment before the work.

python benchmarks/staged.py
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from memory import MEGABYTE, write_checkpoint

LIMIT = 1.1
PROMPT = "a red circle moves left"
TOKENIZER = Path(__file__).parent.parent / "examples/opensora_hpcai/models/tiny/t5"
WIDTH, TOKENS = 1024, 32
SIZE = ["--image_size", "128", "128", "--num_frames", "17"]
STAGES = ("text", "latents", "pixels")


def write_models(folder: Path) -> None:
    """A T5 encoder of 0.2 B parameters, a denoiser of 0.26 B and an autoencoder of 0.1 B, with random numbers."""
    from mindone import runtime
    from mindone.models.autoencoder_kl import AutoencoderKLConfig
    from mindone.models.t5 import T5Config, T5Encoder
    from opensora import outputs
    from opensora.models.stdit3 import STDiT3, STDiT3Config
    from opensora.models.vae_temporal import TemporalAutoencoderConfig
    from opensora.models.vae_v1_2 import VideoAutoencoder, VideoAutoencoderConfig

    t5 = T5Config(vocab_size=1024, d_model=WIDTH, d_kv=64, d_ff=2816, num_layers=16, num_heads=16)
    stdit = STDiT3Config(depth=6, caption_channels=WIDTH, model_max_length=TOKENS)
    image, temporal = AutoencoderKLConfig(block_out_channels=(64, 128, 256, 256)), TemporalAutoencoderConfig(filters=64)
    vae = VideoAutoencoderConfig(autoencoder_kl=image, vae_temporal=temporal)
    networks = {"t5": (T5Encoder, t5), "stdit3": (STDiT3, stdit), "vae": (VideoAutoencoder, vae)}
    for name, (network, config) in networks.items():
        (folder / name).mkdir()
        with runtime.lazy_parameters():
            write_checkpoint(folder / name / "model.safetensors", network(config))
        outputs.write_json(folder / name / "config.json", outputs.plain(config))
    for file in TOKENIZER.glob("*token*.json"):
        shutil.copy(file, folder / "t5")


def commands(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """Per measurement, a door and its settings: each stage by itself, and the whole run."""
    text = ["--t5_model_name_or_path", f"{folder}/t5", "--model_max_length", str(TOKENS)]
    vae = ["--vae_checkpoint", f"{folder}/vae", "--model_version", "v1.2"]
    denoise = [
        *vae,
        "--ckpt_path",
        f"{folder}/stdit3",
        *SIZE,
        "--sampling_steps",
        "2",
        "--model_max_length",
        str(TOKENS),
    ]
    into = ["--append_timestr", "False", "--output_path"]
    latents = ["--text_embed_folder", f"{folder}/text", "--use_vae_decode", "False", "--save_latent", "True"]
    return {
        "text": ("embed-text", [*text, "--captions", PROMPT, "--output_path", f"{folder}/text"]),
        "latents": ("generate", [*denoise, *latents, *into, f"{folder}/run"]),
        "pixels": (
            "decode",
            [
                *vae,
                "--latent_folder",
                f"{folder}/run/denoised_latents",
                "--num_frames",
                "17",
                "--output_path",
                f"{folder}/decoded",
            ],
        ),
        "whole": ("generate", [*denoise, *text[:2], "--captions", PROMPT, *into, f"{folder}/whole"]),
    }


def grown(work: Callable[[], object]) -> float:
    """Bytes by which the peak of this process grows."""
    from mindone import runtime

    before = runtime.peak_memory()
    work()
    return runtime.peak_memory() - before


def run_part(name: str, folder: Path) -> None:
    """Prints the growth of one measurement."""
    from mindspore import Tensor

    from mindone import runtime
    from opensora.cli import DOORS, load, open_door

    door, flags = commands(folder)[name]
    runtime.setup("CPU")
    load(DOORS[door].function)
    (Tensor([1.0]) + 1).asnumpy()
    print(f"grown {grown(lambda: open_door(door, flags, door))}", flush=True)


def measured(name: str, folder: str) -> float:
    """The growth of one measurement, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--part", name, folder], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout.rsplit("grown ", 1)[1])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part:
        name, folder = args.part[0], Path(args.part[1])
        write_models(folder) if name == "write" else run_part(name, folder)
        return 0
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        subprocess.run([sys.executable, __file__, "--part", "write", folder], check=True)
        print("| stage | peak, MB | of the largest |\n|---|---|---|", flush=True)
        stages = {name: measured(name, folder) for name in STAGES}
        largest = max(stages.values())
        stages["whole"] = measured("whole", folder)
    for name, value in stages.items():
        print(f"| {name} | {value / MEGABYTE:,.0f} | **{value / largest:.2f}** |", flush=True)
    return int(stages["whole"] > LIMIT * largest)


if __name__ == "__main__":
    sys.exit(main())
