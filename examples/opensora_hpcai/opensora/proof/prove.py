"""``opensora prove``: a recipe's training and sampling on many processes, compared with one process.

The recipe is made small (`opensora.proof.recipe`), trained by the same commands as always, once by one process and once
as the plan says, on the same samples; then what was trained generates videos in both ways. A table shows how far apart
losses, gradient norms, weights, latents and pixels are.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from mindone.checkpoint import read_tensors
from mindone.config import save_config
from mindone.data.arrays import read_npy
from mindone.errors import UserError
from mindone.train.curves import log_rows
from mindone.train.tracker import RESULT_LOG
from opensora.config.prove import ProveConfig, Spread
from opensora.families import Family, settle
from opensora.generate.forecast import size
from opensora.proof.recipe import TEXT_TOKENS, World, make_world, parallel_settings, small_training
from opensora.start import start

logger = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("worker.py")
LIMIT, PIXEL_LIMIT = 1e-5, 1e-4
"""How far apart numbers of a training may be, relative to their size, and pixels of what is generated."""
SAMPLING_STEPS = 4
PROMPTS = ("a red circle moves left", "a blue square moves up")
LOG_LINES = 30


@dataclass(frozen=True)
class Compared:
    """A quantity of both runs."""

    name: str
    difference: float
    limit: float
    what: str
    """what the difference is, in words"""

    @property
    def holds(self) -> bool:
        return self.difference <= self.limit


@dataclass(frozen=True)
class Proved:
    """What was found."""

    compared: Sequence[Compared]
    memory: dict[str, list[float]]
    """peak memory in bytes of every process, by run"""

    @property
    def holds(self) -> bool:
        return all(each.holds for each in self.compared)


def prove(config: ProveConfig) -> Proved:
    """Runs both, prints the table, and returns what is in it.

    Raises:
        UserError: numbers are further apart than the limits, or a run cannot work.
    """
    start(config.runtime)
    spread = config.proof.spread
    family, _ = settle(config, config.model.model_version, config.model.model_name, config.autoencoder.vae_type)
    with _folder(config.proof.proof_path) as folder:
        world = make_world(config, family, spread, folder)
        for name, way in (("one", Spread()), ("many", spread)):
            small = small_training(config, family, world, way, folder / name)
            settle(small, small.model.model_version, None, small.autoencoder.vae_type)
            save_config(small, folder / f"{name}.yaml")
        _run_all(folder, "train", {"one": (1, []), "many": (spread.ranks, [])})
        shared = parallel_settings(config.parallel, spread)
        flags = ["--enable_sequence_parallelism", str(shared.enable_sequence_parallelism), "--dsp", str(shared.dsp)]
        flags += ["--sequence_parallel_method", shared.sequence_parallel_method]
        if spread.zero == 3:
            flags += ["--shard_weights", "True"]
        elif spread.row > 1:
            flags += ["--sequence_parallel_shards", str(spread.row)]
        _write_sampling(config, world, folder)
        _run_all(folder, "generate", {"one": (1, []), "many": (spread.ranks, flags)})
        proved = Proved(list(_compare(folder)), {name: _memory(folder, name) for name in ("one", "many")})
    print("\n".join(_table(config, family, world, proved)))
    if not proved.holds:
        worst = [each.name for each in proved.compared if not each.holds]
        raise UserError(f"{spread.ranks} processes do not give the numbers of one: {', '.join(worst)}")
    return proved


@contextmanager
def _folder(wanted: str | None) -> Iterator[Path]:
    """An empty folder that is kept, or one that is removed."""
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="opensora-proof-") as folder:
            yield Path(folder)
        return
    folder = Path(wanted)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"proof_path={wanted} is not empty; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


# --- running ---------------------------------------------------------------------------------------------------------


def _write_sampling(config: ProveConfig, world: World, folder: Path) -> None:
    """The recipe of what is generated, by what the one process has trained."""
    frames, height, width = world.size
    text = {"t5_model_name_or_path": world.path("t5"), "clip_model_name_or_path": world.path("clip")}
    recipe = {
        "prompts": {"captions": list(PROMPTS)},
        "shape": {"image_size": [height, width], "num_frames": frames},
        "denoiser": {
            "model_version": config.model.model_version,
            "ckpt_path": str(folder / "one" / "model"),
            "dtype": config.model.dtype,
        },
        "autoencoder": {"vae_checkpoint": world.path("vae")},
        "text": {**text, "model_max_length": TEXT_TOKENS},
        "sampler": {"sampling_steps": SAMPLING_STEPS, "batch_size": 1},
        "output": {"save_format": "png", "save_latent": True, "append_timestr": False},
        "runtime": {"seed": 1, "device_target": config.runtime.device_target},
    }
    (folder / "sample.yaml").write_text(yaml.safe_dump(recipe))


def _run_all(folder: Path, command: str, runs: dict[str, tuple[int, list[str]]]) -> None:
    """Runs a command in both ways, one after the other.

    Raises:
        UserError: a run failed; with the end of what it said.
    """
    for name, (ranks, flags) in runs.items():
        logger.info("%s: %s on %d process%s", command, name, ranks, "es" if ranks > 1 else "")
        words = [str(WORKER), str(folder / f"{command}-{name}"), command]
        if command == "train":
            words += ["--config", str(folder / f"{name}.yaml")]
        else:
            words += ["--config", str(folder / "sample.yaml"), "--output_path", str(folder / f"videos-{name}")]
            words += ["--use_parallel", str(ranks > 1), *flags]
        if ranks > 1:
            launcher = ["-m", "mindone.parallel.launch", "--nproc", str(ranks), "--log_dir", str(folder / "logs")]
            words = [*launcher, *words]
        done = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            last = "\n".join(done.stdout.splitlines()[-LOG_LINES:])
            raise UserError(f"{command} on {ranks} processes failed with code {done.returncode}:\n{last}")


def _memory(folder: Path, name: str) -> list[float]:
    return [float(path.read_text()) for path in sorted(folder.glob(f"train-{name}.*"))]


# --- comparing -------------------------------------------------------------------------------------------------------


def _compare(folder: Path) -> Iterator[Compared]:
    one, many = (_numbers(folder / name / RESULT_LOG) for name in ("one", "many"))
    for name in ("loss", "grad_norm"):
        a, b = np.array(one[name]), np.array(many[name])
        difference = float(np.abs(a - b).max() / np.abs(a).max()) if a.shape == b.shape else float("inf")
        yield Compared(name, difference, LIMIT, f"largest of {len(a)} updates, of the largest value")
    weights = [read_tensors(folder / name / "model") for name in ("one", "many")]
    yield Compared("weights", _distance(*weights), LIMIT, "norm of the difference, of the weights' norm")
    latents, pixels = _generated(folder)
    yield Compared("latents", latents, PIXEL_LIMIT, f"largest of {len(PROMPTS)} videos, absolute")
    yield Compared("pixels", pixels, 1.0, "largest, in levels of 255")


def _numbers(path: Path) -> dict[str, list[float]]:
    rows = log_rows(path)
    return {name: [float(row[name]) for row in rows] for name in ("loss", "grad_norm")}


def _distance(one: dict, many: dict) -> float:
    """The relative distance of two sets of weights; infinite if they are not the same arrays."""
    if one.keys() != many.keys():
        return float("inf")
    arrays = [(np.asarray(one[name], np.float64), np.asarray(many[name], np.float64)) for name in one]
    apart = sum(float(np.square(a - b).sum()) for a, b in arrays)
    return (apart / sum(float(np.square(a).sum()) for a, _ in arrays)) ** 0.5


def _generated(folder: Path) -> tuple[float, float]:
    """The largest differences of latents and of pixels."""
    from PIL import Image

    runs = [folder / f"videos-{name}" for name in ("one", "many")]

    def largest(pattern: str, read: Callable[[Path], np.ndarray]) -> float:
        found = [{path.relative_to(run): read(path) for path in run.rglob(pattern)} for run in runs]
        if not found[0] or found[0].keys() != found[1].keys():
            return float("inf")
        return max(float(np.abs(found[0][name] - found[1][name]).max()) for name in found[0])

    return largest("*.npy", read_npy), largest("*/[0-9]*.png", lambda path: np.asarray(Image.open(path), np.float64))


def _table(config: ProveConfig, family: Family, world: World, proved: Proved) -> Iterator[str]:
    spread, (frames, height, width) = config.proof.spread, world.size
    yield ""
    yield (
        f"version {family.name}, {config.proof.plan}: {spread.ranks} processes against one, "
        f"{config.proof.proof_steps} updates of {world.samples} videos of {frames}x{height}x{width}"
    )
    for each in proved.compared:
        verdict = "equal" if each.holds else "NOT EQUAL"
        yield f"{each.name:10} {each.difference:9.2e}  limit {each.limit:g}  {verdict:9}  {each.what}"
    for name, peaks in proved.memory.items():
        yield f"peak memory of a training process, {name}: {', '.join(size(peak) for peak in peaks)}"
