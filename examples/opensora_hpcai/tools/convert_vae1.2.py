"""The name that documents of the earlier MindSpore port use for convert_vae_3d.py, with the same flags."""

from __future__ import annotations

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("convert_vae_3d.py")), run_name="__main__")
