"""The benchmark of compositional video generation: from the description of a toy world to a table of scores.

Every step is what one of the commands does, in a folder of the benchmark: clips, text embeddings, an autoencoder if it
is trained too, latents, the denoiser, and the scores of real clips, of the same through the autoencoder, and of
generated ones. Steps that are done are left out when it is called again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mindone.checkpoint.atomic import atomic_write, remove_folder
from mindone.checkpoint.files import read_json
from mindone.config import arguments, parse, to_yaml
from mindone.data.table import read_video_table
from opensora import families
from opensora.config import DecodeConfig, ScoreConfig, ToyBenchmarkConfig, ToyDataConfig, TrainConfig, TrainVaeConfig
from opensora.config.toy import Scoring
from opensora.config.toy_benchmark import TABLE, Benchmark, latent_settings, text_settings
from opensora.config.world import WorldConfig, read_world
from opensora.embed.decode import decode_files
from opensora.embed.texts import embed_texts
from opensora.embed.videos import embed_videos
from opensora.outputs import write_json
from opensora.text.tokenizer import TextTokenizer
from opensora.toy.combinations import held_out
from opensora.toy.judge import labels_of
from opensora.toy.score import prompts, score_videos
from opensora.toy.steps import Steps
from opensora.toy.world import make_dataset
from opensora.training import autoencoder, denoiser

logger = logging.getLogger(__name__)

# Real clips that are judged have another seed than any training set.
REAL_SEED = 1_000_003
RESULT, PAGE = "benchmark.json", "benchmark.md"
MEANING = {
    "real": "real clips: what the judge is worth",
    "shuffled": "the same with captions of other clips: chance",
    "autoencoder": "real clips through the autoencoder: what a denoiser can reach",
    "seen": "generated, combinations of the training part",
    "unseen": "generated, with a combination that training never had",
}
"""The rows of the table."""
# Texts have as many tokens as the longest one, rounded up to a multiple of this.
TOKENS = 8


def benchmark(config: ToyBenchmarkConfig) -> dict:
    """Does what is not done yet, prints the table and writes it as ``benchmark.md`` and ``benchmark.json``.

    Returns:
        what is in ``benchmark.json``.
    Raises:
        UserError: what one of the steps refuses.
        SystemExit: a signal ended a training early; its state is saved.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings, folder = config.benchmark, config.benchmark.folder
    world = read_world(settings.world)
    if not held_out(world):
        settings = replace(settings, num_unseen=0)
    vae_runs = _autoencoder_runs(config)
    steps = Steps(folder)
    _make_clips(steps, settings, world)
    training = _with_room_for_texts(config.training(), settings, world)
    texts = text_settings(training)
    steps.do("text", to_yaml(texts), lambda anew: embed_texts(texts), after=["clips"])
    for number, run in enumerate(vae_runs):
        steps.do(f"vae_{number + 1}", _settings(run), _trains(run), ["clips", *([f"vae_{number}"] if number else [])])
    after = [f"vae_{len(vae_runs)}"] if vae_runs else []
    latents = latent_settings(training, folder / "clips", folder / "latents")
    steps.do("latents", to_yaml(latents), lambda anew: embed_videos(latents), ["clips", *after])
    _judge_real(steps, training, settings, world, after)
    steps.do("denoiser", _settings(training), lambda anew: denoiser.train(training), ["text", "latents"])
    _judge_generated(steps, training, settings)
    return _report(steps, training, settings, world)


def _autoencoder_runs(config: ToyBenchmarkConfig) -> list[TrainVaeConfig]:
    """The trainings of the autoencoder, each from the weights of the one before."""
    settings, runs = config.benchmark, []
    clips = settings.folder / "clips"
    for number, recipe in enumerate(settings.vae_configs or (), start=1):
        values = {"csv_path": clips / TABLE, "video_folder": clips, "output_path": settings.folder / f"vae_{number}"}
        values |= {"add_datetime": False}
        values |= {"overwrite": True} if config.train.overwrite else {"resume": "auto"}
        if settings.vae_train_steps:
            values["train_steps"] = settings.vae_train_steps
        start = settings.folder / f"vae_{number - 1}" / "model" if number > 1 else config.autoencoder.vae_checkpoint
        if start:
            values["pretrained_model_path"] = start
        runs.append(parse(TrainVaeConfig, ["--config", str(recipe), *arguments(values)]))
    return runs


def _trains(run: TrainVaeConfig) -> Callable[[bool], object]:
    return lambda anew: autoencoder.train(run)


def _settings(run: TrainConfig | TrainVaeConfig) -> str:
    """What tells a training from another: not whether it goes on or begins anew."""
    return to_yaml(replace(run, train=replace(run.train, resume=False, overwrite=False, allow_changes=False)))


# --- clips and texts -------------------------------------------------------------------------------------------------


def _make_clips(steps: Steps, settings: Benchmark, world: WorldConfig) -> None:
    """Those to train on, of combinations that may be seen, and real ones of all combinations to judge."""
    wanted = {
        "clips": ("train", settings.num_clips, settings.data_seed),
        "real": ("all", settings.num_real, REAL_SEED),
    }
    for name, (split, count, seed) in wanted.items():
        data = ToyDataConfig(
            output=str(steps.folder / name), world=settings.world, num_clips=count, split=split, seed=seed
        )

        def run(anew: bool, data: ToyDataConfig = data) -> None:
            if Path(data.output).is_dir():
                remove_folder(data.output)
            make_dataset(data)

        steps.do(name, to_yaml(replace(data, world=None)) + to_yaml(world), run)


def _with_room_for_texts(training: TrainConfig, settings: Benchmark, world: WorldConfig) -> TrainConfig:
    """The training, with as many text tokens as the longest caption or prompt has, if its own are fewer."""
    encoder = training.text.t5_model_name_or_path
    if not encoder:
        return training
    texts = [row.caption for row in read_video_table(training.data.csv_path, None)]
    texts += prompts("train", settings.num_seen, world) + _unseen(settings, world)
    family = families.settle(training, training.model.model_version)[0]
    has = training.text.model_max_length or family.model_max_length
    needed = -(-max(TextTokenizer(encoder, has)(texts)[2]) // TOKENS) * TOKENS
    if needed <= has:
        return training
    logger.info("texts have up to %d tokens, for which model_max_length=%d has no room: it is set to that", needed, has)
    model = training.model
    if "model_max_length" in model.denoiser:
        model = replace(model, denoiser={**model.denoiser, "model_max_length": needed})
    return replace(training, model=model, text=replace(training.text, model_max_length=needed))


def _unseen(settings: Benchmark, world: WorldConfig) -> list[str]:
    return prompts("unseen", settings.num_unseen, world) if settings.num_unseen else []


# --- scores ----------------------------------------------------------------------------------------------------------


def _judge_real(
    steps: Steps, training: TrainConfig, settings: Benchmark, world: WorldConfig, after: Sequence[str]
) -> None:
    """Real clips, with captions of others too, and what the autoencoder makes of them."""
    folder = steps.folder
    table = str(folder / "real" / TABLE)
    for name, shuffled in (("real", False), ("shuffled", True)):
        scored = Scoring(str(folder / "real"), table, settings.world, shuffled, json=str(folder / f"{name}.json"))
        steps.do(f"judge {name}", name, _scores(ScoreConfig(score=scored)), ["real"])
    latents = latent_settings(training, folder / "real", folder / "real_latents")
    steps.do("real latents", to_yaml(latents), lambda anew: embed_videos(latents), ["real", *after])
    decoded = folder / "real_decoded"
    decode = DecodeConfig(autoencoder=training.autoencoder, runtime=latents.runtime)
    decode.latents.latent_folder, decode.latents.output_path = str(folder / "real_latents"), str(decoded)
    decode.latents.fps = max(1, round(world.fps))
    decode.model.model_version = training.model.model_version
    scored = Scoring(str(decoded), table, settings.world, json=str(folder / "autoencoder.json"))

    def run(anew: bool) -> None:
        if decoded.is_dir():
            remove_folder(decoded)
        decode_files(decode)
        score_videos(ScoreConfig(score=scored))

    steps.do("judge autoencoder", to_yaml(decode), run, ["real latents"])


def _scores(config: ScoreConfig) -> Callable[[bool], object]:
    return lambda anew: score_videos(config)


def _judge_generated(steps: Steps, training: TrainConfig, settings: Benchmark) -> None:
    """Videos of prompts of seen and unseen combinations."""
    folder, shape = steps.folder, training.shape
    values = {
        "model_version": training.model.model_version,
        "model_name": training.model.model_name,
        "ckpt_path": folder / "denoiser" / "model",
        "image_size": shape.image_size,
        "resolution": shape.resolution,
        "aspect_ratio": shape.aspect_ratio,
        "num_frames": shape.num_frames,
        "t5_model_name_or_path": training.text.t5_model_name_or_path,
        "clip_model_name_or_path": training.text.clip_model_name_or_path,
        "model_max_length": training.text.model_max_length,
        "vae_type": training.autoencoder.vae_type,
        "vae_checkpoint": training.autoencoder.vae_checkpoint,
        "output_path": folder / "videos",
        "append_timestr": False,
        "device_target": training.runtime.device_target,
        "seed": training.runtime.seed,
        "world": settings.world,
        "num_seen": settings.num_seen,
        "num_unseen": settings.num_unseen,
        "json": folder / "generated.json",
    }
    recipe = ["--config", str(settings.sample_config)] if settings.sample_config else []
    flags = arguments({name: value for name, value in values.items() if value is not None})
    config = parse(ScoreConfig, [*recipe, *flags])

    def run(anew: bool) -> None:
        if anew and (folder / "videos").is_dir():
            remove_folder(folder / "videos")
        score_videos(config)

    steps.do("score", to_yaml(config), run, ["denoiser"])


# --- what is reported ------------------------------------------------------------------------------------------------


def _report(steps: Steps, training: TrainConfig, settings: Benchmark, world: WorldConfig) -> dict:
    """Prints and writes the table."""
    folder = steps.folder
    found = read_json(folder / "generated.json", "scores")
    for name, part in (("real", "clips"), ("shuffled", "shuffled"), ("autoencoder", "clips")):
        found[name] = read_json(folder / f"{name}.json", "scores")[part]
    labels = [*labels_of(world), "all"]
    rows = {name: {label: found[name][label] for label in ("count", *labels)} for name in MEANING if name in found}
    result = {
        "world": str(settings.world or "built-in"),
        "model_version": training.model.model_version,
        "num_clips": settings.num_clips,
        "length": _length(training),
        "batch_size": training.train.batch_size,
        "parts": rows,
        "seconds": steps.seconds(),
    }
    write_json(folder / RESULT, result)
    text = page(result)
    with atomic_write(folder / PAGE) as file:
        file.write(text.encode())
    print(text)
    logger.info("the table is in %s and %s", folder / PAGE, folder / RESULT)
    return result


def _length(training: TrainConfig) -> str:
    loop = training.train
    return f"{loop.train_steps} updates" if loop.train_steps > 0 else f"{loop.epochs} epochs"


def page(result: dict) -> str:
    """The table as Markdown."""
    labels = [label for label in next(iter(result["parts"].values())) if label != "count"]
    lines = [
        f"World: {result['world']}. Open-Sora {result['model_version'].removeprefix('v')}, trained on "
        f"{result['num_clips']} clips for {result['length']} with batches of {result['batch_size']}, "
        f"{sum(result['seconds'].values()):.0f} seconds in all. Shares of clips that show what the caption says:",
        "",
        f"| | clips | {' | '.join(labels)} | |",
        f"|---|---|{'---|' * len(labels)}---|",
    ]
    for name, row in result["parts"].items():
        shares = " | ".join(f"{row[label]:.3f}" for label in labels)
        lines.append(f"| {name} | {row['count']} | {shares} | {MEANING[name]} |")
    return "\n".join([*lines, ""])
