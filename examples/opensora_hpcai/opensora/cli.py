"""The console command ``opensora``: the doors of ``scripts/`` under one name."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from mindone.errors import UserError, guarded

COMMANDS: dict[str, tuple[str, str, str]] = {
    "generate": ("opensora.pipelines.generate", "main", "videos from prompts"),
    "train": ("opensora.pipelines.doors", "train_main", "train a denoiser"),
    "train-vae": ("opensora.pipelines.doors", "train_vae_main", "train an autoencoder"),
    "embed-text": ("opensora.embed.texts", "text_main", "cache text embeddings of captions or prompts"),
    "embed-video": ("opensora.embed.videos", "video_main", "cache latents of videos"),
    "decode": ("opensora.embed.decode", "main", "videos from cached latents"),
    "convert": ("opensora.cli", "convert_main", "a checkpoint in another format or with other names"),
}


def usage() -> str:
    """What ``opensora --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(["usage: opensora COMMAND [--help] [-c RECIPE.yaml ...] [--NAME VALUE ...]", "", *lines])


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Raises:
        UserError: no such command, or what the command refuses.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command '{name}'; {hint}")
    module, function, _ = COMMANDS[name]
    getattr(importlib.import_module(module), function)(rest)
    return 0


@guarded
def convert_main(argv: Sequence[str] | None = None) -> None:
    """Entry of ``opensora convert``."""
    from mindone.checkpoint.convert import convert
    from mindone.config import parse
    from opensora.config import ConvertConfig

    config = parse(ConvertConfig, argv)
    written = convert(config.src, config.target, config.names, config.dtype)
    print(f"{config.target}: {len(written)} tensors, {written.nbytes:,} bytes")
