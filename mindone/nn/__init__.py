"""Functional maths, layers, embeddings and convolutions that run forward and backward on a CPU and on Ascend."""

from __future__ import annotations


def set_compute_dtype(network, dtype, store: bool = False) -> None:
    """Sets the dtype in which every matrix-carrying cell of a network multiplies.

    Args:
        store: also hold the parameters of these cells in it, for networks that are not trained: the results stay the
            same, and the memory is what the dtype needs. To be called before parameters have values.
    """
    for _, cell in network.cells_and_names():
        if not hasattr(cell, "compute_dtype"):
            continue
        cell.compute_dtype = dtype
        if store:
            for parameter in cell.parameters_dict(recurse=False).values():
                parameter.set_dtype(dtype)
