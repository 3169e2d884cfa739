"""Checkpoints: safe reading of every format, strict loading, published names, and files that appear whole."""

from mindone.checkpoint.atomic import atomic_folder, atomic_write, require_writable
from mindone.checkpoint.ckpt_file import save_ckpt
from mindone.checkpoint.convert import convert
from mindone.checkpoint.digest import weights_digest
from mindone.checkpoint.find import find_model
from mindone.checkpoint.load import (
    ADAPTER_LAYOUT,
    MODEL_LAYOUT,
    Layout,
    LoadReport,
    check_fit,
    load_into,
    network_tensors,
    save_model,
)
from mindone.checkpoint.naming import DEFAULT_ADAPTERS
from mindone.checkpoint.read import read_tensors
from mindone.checkpoint.run import RunCheckpoint, RunCheckpoints
from mindone.checkpoint.safetensors_file import save_safetensors
from mindone.checkpoint.tensors import TensorFile, cast

__all__ = [
    "ADAPTER_LAYOUT",
    "DEFAULT_ADAPTERS",
    "MODEL_LAYOUT",
    "Layout",
    "LoadReport",
    "RunCheckpoint",
    "RunCheckpoints",
    "TensorFile",
    "atomic_folder",
    "atomic_write",
    "cast",
    "check_fit",
    "convert",
    "find_model",
    "load_into",
    "network_tensors",
    "read_tensors",
    "require_writable",
    "save_ckpt",
    "save_model",
    "save_safetensors",
    "weights_digest",
]
