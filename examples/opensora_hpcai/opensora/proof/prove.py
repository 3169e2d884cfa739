"""``opensora prove``: a recipe's training and sampling on many processes, compared with one process.

The recipe is made small (`opensora.proof.recipe`), trained by the same commands as always, once by one process and once
as each plan says, on the same samples; then what was trained generates videos in both ways. Tables show how far apart
losses, gradient norms, weights, latents and pixels are (`opensora.proof.compare`).
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import mindspore
import yaml

from mindone import runtime
from mindone.config import save_config
from mindone.errors import UserError
from opensora import outputs
from opensora.config.prove import ProveConfig, Spread
from opensora.families import settle
from opensora.proof.compare import Proved, compare_runs, compare_videos, details, overview
from opensora.proof.recipe import TEXT_TOKENS, World, make_world, parallel_settings, samples_of_update, small_training
from opensora.start import start

logger = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("worker.py")
ONE = "one"
SAMPLING_STEPS = 4
PROMPTS = ("a red circle moves left", "a blue square moves up")
LOG_LINES = 30


def prove(config: ProveConfig) -> list[Proved]:
    """Runs one process and every plan, prints the tables, and returns what is in them.

    Raises:
        UserError: numbers of a plan are further apart than the limits, or a run cannot work.
    """
    start(config.runtime)
    family, settled = settle(config, config.model.model_version, config.model.model_name, config.autoencoder.vae_type)
    with _folder(config.proof.proof_path) as folder:
        world = make_world(config, family, folder)
        for spread in (Spread(), *config.proof.spreads):
            small = small_training(config, family, world, spread, folder / _name(spread))
            settle(small, small.model.model_version, None, small.autoencoder.vae_type)
            save_config(small, folder / f"{_name(spread)}.yaml")
        _write_sampling(config, world, folder)
        _run(folder, Spread(), _commands(config, folder, Spread()))
        frames, height, width = world.size
        print(
            f"version {family.name}: {config.proof.proof_steps} updates of {samples_of_update(config.proof)} videos of "
            f"{frames}x{height}x{width}"
        )
        found = []
        for spread in config.proof.spreads:
            found.append(_proved(config, folder, spread))
            print("\n".join(details(found[-1], *_memory(folder, Spread()))), flush=True)
    if len(found) > 1:
        print("\n".join(overview(found)))
    _require_equal(found, settled.model.dtype)
    return found


def _require_equal(found: Sequence[Proved], dtype: str) -> None:
    """Raises a `UserError` that names the plans with other numbers than one process, and in which numbers."""
    wrong = [f"{proved.spread} ({', '.join(proved.wrong)})" for proved in found if proved.wrong]
    if not wrong:
        return
    message = f"these plans do not give the numbers of one process: {'; '.join(wrong)}"
    if runtime.compute_dtype(dtype) != mindspore.float32 and any(proved.compared for proved in found if proved.wrong):
        message += f"; {dtype} rounds what is summed in another order to other numbers, so compare with --dtype fp32"
    raise UserError(message)


def _proved(config: ProveConfig, folder: Path, spread: Spread) -> Proved:
    """Runs a plan and compares; one that fails does not keep others from running."""
    try:
        _run(folder, spread, _commands(config, folder, spread))
    except UserError as error:
        return Proved(spread, failure=str(error))
    compared = [
        *compare_runs(folder / ONE, folder / _name(spread)),
        *compare_videos(_videos(folder, Spread()), _videos(folder, spread)),
    ]
    return Proved(spread, compared, _memory(folder, spread))


@contextmanager
def _folder(wanted: str | None) -> Iterator[Path]:
    """An empty folder that is kept, or one that is removed."""
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="opensora-proof-") as folder:
            yield Path(folder)
        return
    folder = Path(wanted).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"proof_path={wanted} is not empty; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _name(spread: Spread) -> str:
    return str(spread) or ONE


def _sampled(spread: Spread) -> Spread:
    """What of a plan is sampling's too: accumulation and the stages 1 and 2 of ZeRO are training's alone."""
    return replace(spread, accumulate=1, zero=3 if spread.zero == 3 else 0)


def _videos(folder: Path, spread: Spread) -> Path:
    """Where a plan's videos are; plans that sample by the same command share them."""
    return folder / f"videos-{_name(_sampled(spread))}"


# --- running ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """What processes of a plan do, and where they say that they have done it."""

    door: str
    settings: Sequence[str]
    report: str
    """without its ``.RANK``"""


def _commands(config: ProveConfig, folder: Path, spread: Spread) -> list[Command]:
    """A plan's training, and its sampling unless another plan has done the same one."""
    recipe = ["--config", str(folder / f"{_name(spread)}.yaml")]
    train = Command("train", recipe, str(folder / f"train-{_name(spread)}"))
    sampled = _sampled(spread)
    report = folder / f"generate-{_name(sampled)}"
    if Path(f"{report}.0").exists():
        return [train]
    shared = parallel_settings(config.parallel, sampled)
    settings = ["--config", str(folder / "sample.yaml"), "--output_path", str(_videos(folder, spread))]
    settings += ["--use_parallel", str(sampled.ranks > 1), "--dsp", str(shared.dsp)]
    settings += ["--enable_sequence_parallelism", str(shared.enable_sequence_parallelism)]
    settings += ["--sequence_parallel_method", shared.sequence_parallel_method]
    if sampled.zero == 3:
        settings += ["--shard_weights", "True"]
    elif sampled.row > 1:
        settings += ["--sequence_parallel_shards", str(sampled.row)]
    return [train, Command("generate", settings, str(report))]


def _write_sampling(config: ProveConfig, world: World, folder: Path) -> None:
    """The recipe of what is generated, by what the one process has trained."""
    frames, height, width = world.size
    text = {"t5_model_name_or_path": world.path("t5"), "clip_model_name_or_path": world.path("clip")}
    recipe = {
        "prompts": {"captions": list(PROMPTS)},
        "shape": {"image_size": [height, width], "num_frames": frames},
        "denoiser": {
            "model_version": config.model.model_version,
            "ckpt_path": str(folder / ONE / "model"),
            "dtype": config.model.dtype,
        },
        "autoencoder": {"vae_checkpoint": world.path("vae")},
        "text": {**text, "model_max_length": TEXT_TOKENS},
        "sampler": {"sampling_steps": SAMPLING_STEPS, "batch_size": 1},
        "output": {"save_format": "png", "save_latent": True, "append_timestr": False},
        "runtime": {"seed": 1, "device_target": config.runtime.device_target},
    }
    (folder / "sample.yaml").write_text(yaml.safe_dump(recipe))


def _run(folder: Path, spread: Spread, commands: Sequence[Command]) -> None:
    """Runs commands one after the other, each as processes of its own, as users do.

    Raises:
        UserError: one failed; with the end of what it said.
    """
    name, where = _name(spread), spread.processes
    for command in commands:
        logger.info("%s: %s on %s", name, command.door, where)
        file = folder / f"{name}-{command.door}.json"
        outputs.write_json(file, vars(command))
        words = [str(WORKER), str(file)]
        if spread.ranks > 1:
            launcher = ["-m", "mindone.parallel.launch", "--nproc", str(spread.ranks), "--log_dir"]
            words = [*launcher, str(folder / "logs" / f"{name}-{command.door}"), *words]
        done = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            last = "\n".join(done.stdout.splitlines()[-LOG_LINES:])
            raise UserError(f"{name}: {command.door} on {where} failed with code {done.returncode}:\n{last}")


def _memory(folder: Path, spread: Spread) -> list[float]:
    """Peak memory in bytes of every process of a training."""
    return [float(path.read_text()) for path in sorted(folder.glob(f"train-{_name(spread)}.[0-9]*"))]
