"""Functional maths, layers, embeddings and convolutions that run forward and backward on a CPU and on Ascend."""

from __future__ import annotations


def set_compute_dtype(network, dtype) -> None:
    """Sets the dtype in which every matrix-carrying cell of a network multiplies; parameters keep theirs."""
    for _, cell in network.cells_and_names():
        if hasattr(cell, "compute_dtype"):
            cell.compute_dtype = dtype
