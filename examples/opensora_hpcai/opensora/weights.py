"""Weights in other layouts and formats: what the converters and the download tool do."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from mindone.checkpoint.convert import convert, convert_autoencoder
from opensora.checkpoints import convert_video_autoencoder
from opensora.config import ConvertConfig, ConvertFluxConfig, ConvertImageVaeConfig, ConvertVideoVaeConfig
from opensora.passport import made_by


def convert_any(config: ConvertConfig) -> None:
    """A checkpoint in another format, with other names or another dtype."""
    _say(config.target, convert(config.src, config.target, config.names, config.dtype, config.weights, config.strip))


def convert_image_vae(config: ConvertImageVaeConfig) -> None:
    """An image autoencoder with its published names, from either generation of names or latent diffusion's."""
    _say(config.target, convert_autoencoder(config.src, config.target))


def convert_video_vae(config: ConvertVideoVaeConfig) -> None:
    """The video autoencoder of Open-Sora 1.2 with its published names."""
    _say(config.target, convert_video_autoencoder(config.src, config.target, config.from_vae2d))


def convert_flux_weights(config: ConvertFluxConfig) -> None:
    """MMDiT weights in another layout, exactly and one tensor at a time."""
    from opensora.models.flux_weights import convert_flux

    about = {"converted_by": made_by()}
    _say(config.target, convert_flux(config.src, config.target, config.src_layout, config.layout, config.dtype, about))


def download(argv: Sequence[str], prog: str) -> None:
    """Downloads a model of a hub and converts its PyTorch files to safetensors; a stopped download goes on.

    HF_ENDPOINT names another hub, HF_HUB_OFFLINE=1 uses only what is there already.
    """
    from mindone.checkpoint.download import fetch_model

    parser = argparse.ArgumentParser(prog, description=download.__doc__)
    parser.add_argument("model_id", help="owner/name, such as DeepFloyd/t5-v1_1-xxl")
    parser.add_argument("--target", help="the folder to fill; default: models/NAME")
    parser.add_argument("--revision", help="a branch, tag or commit; default: the main branch. The commit is printed")
    parser.add_argument("--include", default="*", help="only files that fit this pattern, such as 'vae/*'")
    parser.add_argument("--disable_ssl_verify", action="store_true", help="has no effect: certificates are verified")
    args = parser.parse_args(argv)
    if args.disable_ssl_verify:
        logging.warning("disable_ssl_verify has no effect: certificates are always verified")
    target = Path(args.target or Path("models") / args.model_id.rpartition("/")[2])
    print(f"the model is in {fetch_model(args.model_id, target, args.revision, args.include)}")


def _say(target: str, written) -> None:
    print(f"{target}: {len(written)} tensors, {written.nbytes:,} bytes")
