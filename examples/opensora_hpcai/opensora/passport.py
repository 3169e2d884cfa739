"""What weights that were trained here say of themselves, in the metadata of their safetensors file.

``opensora inspect FILE`` shows it. Nothing depends on it, and it names no file of the machine that it was made on.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from opensora import __version__
from opensora.outputs import plain

REFERENCES = {
    "EarlyDiT": "v00_dit",
    "DiT": "v10_dit",
    "PixArt": "v10_pixart",
    "STDiT": "v10_stdit",
    "STDiT2": "v11_stdit2",
    "STDiT3": "v12_stdit3",
    "MMDiT": "v20_mmdit",
    "VideoAutoencoderKL": "v10_vae2d",
    "VideoAutoencoder": "v12_vae_pipeline",
    "AutoencoderKLCausal3D": "v20_hunyuan_vae",
    "DCAE": "v20_dcae",
    "FluxAutoencoder": "v20_flux_ae",
}
"""The reference runs of the original that a network is proven on, see ``docs/parity.md``."""


def passport(network: str, recipe: Mapping[str, Any], seed: int) -> dict[str, str]:
    """Where trained weights come from.

    Args:
        network: name of its class.
        recipe: what changes the numbers of the training, its data and batches by digest among it.
    Returns:
        ``made_by`` (version and commit), ``recipe`` (JSON), ``seed`` and ``parity``.
    """
    reference = REFERENCES.get(network)
    parity = (
        f"{network} equals the original in outputs and gradients, reference runs {reference}*"
        if reference
        else f"{network} has no reference run of its own"
    )
    return {
        "made_by": made_by(),
        "recipe": json.dumps(plain({name: recipe[name] for name in recipe if not _is_file(name)}), sort_keys=True),
        "seed": str(seed),
        "parity": parity,
    }


def made_by() -> str:
    """This version, and the commit of the checkout that runs, if it is one."""
    return f"mindone {__version__}{_commit()}"


def _is_file(setting: str) -> bool:
    return setting.endswith(("_path", "_folder", "_checkpoint"))


@cache
def _commit() -> str:
    """The commit of the checkout that runs, if it is one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f", commit {found.stdout.strip()}" if found.returncode == 0 else ""
