"""The table of doors: every script, tool and console verb names one of them, and nothing else.

A door is a schema and a function of the settings. Settings are read and checked, and ``--help`` answers, before
MindSpore is loaded.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mindone
from mindone.config import parse
from mindone.errors import UserError, guarded


@dataclass(frozen=True)
class Door:
    """One command: ``module:name`` of its schema and of the function that takes the settings.

    Without a schema the function takes the command line itself.
    """

    function: str
    schema: str | None
    help: str


DOORS: dict[str, Door] = {
    "generate": Door("opensora.generate.run:generate", "opensora.config:GenerateConfig", "videos from prompts"),
    "generate-v2": Door(
        "opensora.generate.v2:generate_v2",
        "opensora.config:InferenceV2Config",
        "videos of Open-Sora 2.0, by its published groups of settings",
    ),
    "sample-v0": Door(
        "opensora.older.first:sample_first",
        "opensora.config:SampleFirstConfig",
        "a video with the first release, by its published options",
    ),
    "sample-opendit": Door(
        "opensora.older.opendit:sample_opendit",
        "opensora.config:SampleOpenDiTConfig",
        "videos with 1.0, by OpenDiT's options",
    ),
    "search": Door(
        "opensora.evaluation.search:search",
        "opensora.config:SearchConfig",
        "the best of several videos of every prompt, or better noise round after round, by a judge",
    ),
    "serve": Door("opensora.serving.server:serve", "opensora.config:ServeConfig", "videos by HTTP, from a queue"),
    "web": Door("opensora.serving.web:web", "opensora.config:WebConfig", "a page in the browser that makes videos"),
    "train": Door(
        "opensora.training.denoiser:train",
        "opensora.config:TrainConfig",
        "train a denoiser on videos and captions, or on their caches",
    ),
    "train-v0": Door(
        "opensora.older.first:train_first",
        "opensora.config:TrainFirstConfig",
        "train the first release, by its published options",
    ),
    "train-opendit": Door(
        "opensora.older.opendit:train_opendit",
        "opensora.config:TrainOpenDiTConfig",
        "train 1.0, by OpenDiT's options",
    ),
    "plan-data": Door(
        "opensora.training.plan_data:plan_data",
        "opensora.config:PlanDataConfig",
        "which samples of a table train together, and at which size",
    ),
    "plan": Door(
        "opensora.costs.plan:plan",
        "opensora.config:PlanConfig",
        "what a training needs and takes on so many cards, and which way to spread it fits",
    ),
    "prove": Door(
        "opensora.proof.prove:prove",
        "opensora.config:ProveConfig",
        "does a recipe's training on many processes give the numbers of one?",
    ),
    "plot": Door(
        "opensora.training.runs:plot", "opensora.config:PlotConfig", "a picture of training runs: losses, norms, times"
    ),
    "replay": Door(
        "opensora.training.runs:replay_update",
        "opensora.config:ReplayConfig",
        "one past update of a training run, computed again",
    ),
    "train-vae": Door(
        "opensora.training.autoencoder:train", "opensora.config:TrainVaeConfig", "train an autoencoder on videos"
    ),
    "evaluate-vae": Door(
        "opensora.evaluation.reconstruction:evaluate",
        "opensora.config:EvaluateVaeConfig",
        "how well an autoencoder reconstructs videos",
    ),
    "embed-text": Door(
        "opensora.embed.texts:embed_texts",
        "opensora.config:EmbedTextConfig",
        "cache text embeddings of captions or prompts",
    ),
    "embed-text-v2": Door(
        "opensora.embed.texts_v2:embed_texts_v2",
        "opensora.config:EmbedTextV2Config",
        "text embeddings of Open-Sora 2.0 by one of its encoders, as .npy",
    ),
    "embed-video": Door(
        "opensora.embed.videos:embed_videos", "opensora.config:EmbedVideoConfig", "cache latents of videos"
    ),
    "decode": Door("opensora.embed.decode:decode_files", "opensora.config:DecodeConfig", "videos from cached latents"),
    "convert": Door(
        "opensora.weights:convert_any",
        "opensora.config:ConvertConfig",
        "a checkpoint in another format or with other names",
    ),
    "convert-image-vae": Door(
        "opensora.weights:convert_image_vae",
        "opensora.config:ConvertImageVaeConfig",
        "an image autoencoder (SD-VAE, SDXL-VAE) with its published names",
    ),
    "convert-video-vae": Door(
        "opensora.weights:convert_video_vae",
        "opensora.config:ConvertVideoVaeConfig",
        "the video autoencoder of Open-Sora 1.2 with its published names",
    ),
    "convert-flux": Door(
        "opensora.weights:convert_flux_weights",
        "opensora.config:ConvertFluxConfig",
        "MMDiT weights in the layout of Open-Sora 2.0, Flux, ComfyUI or diffusers",
    ),
    "launch": Door("mindone.parallel.launch:launch", None, "a script on several devices or machines at once"),
    "convert-lora": Door(
        "opensora.lora:convert_lora",
        "opensora.config:ConvertLoraConfig",
        "an adapter (LoRA) in another tool's naming, for its layout of the weights",
    ),
    "merge-lora": Door(
        "opensora.lora:merge_lora",
        "opensora.config:MergeLoraConfig",
        "adapters (LoRA) folded into a denoiser's weights",
    ),
    "download": Door("opensora.weights:download", None, "a model of a hub, as safetensors"),
    "doctor": Door("opensora.checkup.doctor:doctor", None, "is this machine ready, and what to do where it is not?"),
    "validate": Door(
        "opensora.checkup.validate:validate", None, "would a recipe work here: files, weights, data, memory?"
    ),
    "inspect": Door("opensora.inspection:inspect", None, "what a checkpoint holds"),
    "verify": Door("opensora.inspection:verify", None, "is a checkpoint as it was saved, or equal to another?"),
    "toy-data": Door("opensora.toy.world:make_dataset", "opensora.config:ToyDataConfig", "clips of the toy world"),
    "toy-film": Door(
        "opensora.toy.film:make_toy_film",
        "opensora.config:ToyFilmConfig",
        "a film of twelve toy scenes to try data run with, and a check of what came of it",
    ),
    "toy-captions": Door(
        "opensora.toy.endpoint:serve_captions",
        "opensora.config:ToyCaptionsConfig",
        "an endpoint on this machine that captions toy clips by looking at them",
    ),
    "toy-clip": Door(
        "opensora.toy.tiny_clip:make_tiny_clip",
        "opensora.config:TinyClipConfig",
        "the CLIP text encoder of the toy world",
    ),
    "toy-t5": Door(
        "opensora.toy.tiny_t5:make_tiny_t5", "opensora.config:TinyT5Config", "the T5 text encoder of the toy world"
    ),
    "score-toy": Door(
        "opensora.toy.score:score_videos", "opensora.config.toy:ScoreConfig", "do videos of the toy world obey?"
    ),
    "benchmark-toy": Door(
        "opensora.toy.benchmark:benchmark",
        "opensora.config:ToyBenchmarkConfig",
        "compositional video generation on a toy world: data, training and score in one",
    ),
    "measure-toy": Door(
        "opensora.toy.measured:measure_measures",
        "opensora.config.toy:MeasuredConfig",
        "what measures of videos see of known damages, and how they go with the exact score",
    ),
    "measure-text": Door(
        "opensora.toy.measured_text:measure_text",
        "opensora.config.toy:MeasuredTextConfig",
        "how much text the score ocr finds, and what it takes for text",
    ),
    "gallery": Door(
        "opensora.toy.gallery:make_gallery",
        "opensora.config:GalleryConfig",
        "a picture of what the bundled models make",
    ),
}

GROUPS: dict[str, tuple[str, dict[str, Door]]] = {
    "data": (
        "from raw videos to a training table",
        {
            "index": Door(
                "opensora.data_tools.index:index",
                "opensora.config:IndexConfig",
                "a table of videos and pictures: captions, length, size, frame rate",
            ),
            "scenes": Door(
                "opensora.data_tools.scenes:scenes",
                "opensora.config:ScenesConfig",
                "a row for each scene of films, to the frame",
            ),
            "cut": Door("opensora.data_tools.cut:cut", "opensora.config:CutConfig", "scenes as files"),
            "score": Door(
                "opensora.data_tools.score:score",
                "opensora.config:ScoresConfig",
                "how sharp, moving, written over and pleasing videos are",
            ),
            "camera": Door(
                "opensora.data_tools.camera:camera", "opensora.config:CameraConfig", "how the camera of videos moves"
            ),
            "duplicates": Door(
                "opensora.data_tools.duplicates:duplicates",
                "opensora.config:DuplicatesConfig",
                "which videos look like an earlier one of the table",
            ),
            "caption": Door(
                "opensora.data_tools.caption:caption",
                "opensora.config:CaptionConfig",
                "captions by a model that sees, behind an OpenAI-compatible endpoint",
            ),
            "filter": Door(
                "opensora.data_tools.sets:filter_table",
                "opensora.config:FilterConfig",
                "the rows of a table that meet a condition",
            ),
            "merge": Door(
                "opensora.data_tools.sets:merge",
                "opensora.config:MergeConfig",
                "tables as sets: all rows, those in common, those of one alone, or their columns together",
            ),
            "sample": Door(
                "opensora.data_tools.sets:sample",
                "opensora.config:SampleConfig",
                "some rows of a table, in another order, or in several files",
            ),
            "collate": Door(
                "opensora.data_tools.msr_vtt:collate",
                "opensora.config:CollateConfig",
                "MSR-VTT in one folder for each of its splits",
            ),
            "preprocess": Door(
                "opensora.data_tools.msr_vtt:preprocess",
                "opensora.config:PreprocessConfig",
                "an arrow data set of videos and the states of their captions",
            ),
            "run": Door(
                "opensora.data_tools.run:run", "opensora.config:RunDataConfig", "verbs one after the other, resumable"
            ),
            "info": Door("opensora.data_tools.info:info", "opensora.config:InfoConfig", "what is in a table"),
            "report": Door(
                "opensora.data_tools.report:report",
                "opensora.config:ReportConfig",
                "a page on a table: its numbers, clips that are kept and rejected, what a recipe takes",
            ),
        },
    ),
    "evaluate": (
        "from videos to scores",
        {
            "vae": Door(
                "opensora.evaluation.reconstruction:evaluate",
                "opensora.config:EvaluateVaeConfig",
                "how well an autoencoder reconstructs videos",
            ),
            "loss": Door(
                "opensora.evaluation.loss:loss",
                "opensora.config:EvaluateLossConfig",
                "the validation loss of checkpoints, by size and timestep",
            ),
            "clip": Door(
                "opensora.evaluation.clip_score:clip",
                "opensora.config.evaluate:ClipScoreConfig",
                "how well videos match their prompts",
            ),
            "fvd": Door(
                "opensora.evaluation.distance:fvd",
                "opensora.config.evaluate:FvdConfig",
                "the Frechet distance between two sets of features",
            ),
            "flicker": Door(
                "opensora.evaluation.temporal:flicker",
                "opensora.config.evaluate:VideosConfig",
                "how little successive frames differ, as VBench has it",
            ),
            "motion": Door(
                "opensora.evaluation.temporal:motion", "opensora.config.evaluate:VideosConfig", "how much videos move"
            ),
            "consistency": Door(
                "opensora.evaluation.temporal:consistency",
                "opensora.config.evaluate:VideosConfig",
                "how much videos keep their colours",
            ),
            "vbench": Door(
                "opensora.evaluation.vbench:vbench",
                "opensora.config.evaluate:VbenchConfig",
                "VBench's file names, and its published totals of its result file",
            ),
            "compare": Door(
                "opensora.evaluation.compare:compare",
                "opensora.config.evaluate:CompareConfig",
                "videos of several checkpoints side by side, with intervals",
            ),
        },
    ),
}
"""Commands of two words, such as ``opensora data index``: what the first one is about, and the doors of the second.

`enter` and `open_door` take both words as one name, ``"data index"``.
"""


def all_doors() -> dict[str, Door]:
    """Every door by its name, which for those of `GROUPS` has two words."""
    return DOORS | {f"{group} {name}": door for group, (_, verbs) in GROUPS.items() for name, door in verbs.items()}


def usage(group: str | None = None) -> str:
    """What ``opensora --help`` prints, or ``opensora GROUP --help``."""
    if group:
        lines = {name: door.help for name, door in GROUPS[group][1].items()}
    else:
        lines = {name: door.help for name, door in DOORS.items()}
        lines |= {f"{name} VERB": f"{about}: {', '.join(verbs)}" for name, (about, verbs) in GROUPS.items()}
    width = max(map(len, lines), default=0)
    listed = [f"  {name:<{width}}  {text}" for name, text in lines.items()]
    command = f"{group} VERB" if group else "COMMAND"
    return "\n".join([f"usage: opensora {command} [--help] [-c RECIPE.yaml ...] [--NAME VALUE ...]", "", *listed])


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """The console command ``opensora``.

    Raises:
        UserError: no such command, or what the command refuses.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(f"opensora (mindone {mindone.__version__})")
        return 0
    name, *rest = argv
    group = name if name in GROUPS else None
    if group:
        if not rest or rest[0] in ("-h", "--help", "help"):
            print(usage(group))
            return 0
        verb, *rest = rest
        name = f"{group} {verb}"
    if name not in all_doors():
        raise UserError(_unknown(name, [known for known in all_doors() if not group or known.startswith(f"{group} ")]))
    open_door(name, rest, f"opensora {name}")
    return 0


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
    return f"unknown command '{name}'; {hint}"


@guarded
def enter(name: str, argv: Sequence[str] | None = None) -> object:
    """What a script or tool does: `open_door` with its own command line and name."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return open_door(name, argv, os.path.basename(sys.argv[0]))


def open_door(name: str, argv: Sequence[str], prog: str) -> object:
    """Reads the settings of a door from a command line, calls its function and returns what that gives.

    The result's type is the function's own: a list of results, a folder, counts.
    """
    door = all_doors()[name]
    if door.schema is None:
        return load(door.function)(argv, prog)
    config = parse(load(door.schema), argv, prog, f"{door.help[:1].upper()}{door.help[1:]}.")
    return load(door.function)(config)


def load(name: str) -> Callable[..., object]:
    """The class or function called ``module:name``."""
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)
