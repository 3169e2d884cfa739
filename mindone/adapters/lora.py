"""Low-rank adaptation of linear layers, https://arxiv.org/abs/2106.09685, applied to a network from outside.

``y = W x + b + s * B (A x)`` with ``A`` (rank, in) and ``B`` (out, rank). ``W`` and ``b`` stay as they are, in whatever
dtype they are held. Names and rules are those of peft: the tensors of the linear at ``M`` are called
``base_model.model.M.lora_A.weight`` and ``.lora_B.weight``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mindspore import Parameter, Tensor, nn

from mindone import runtime
from mindone.adapters.dropout import SeededDropout, new_seeds
from mindone.adapters.lora_files import PEFT_PREFIX, LoraTensors, scale_of
from mindone.checkpoint.naming import matches
from mindone.errors import UserError
from mindone.nn import init
from mindone.nn.layers import Linear


@dataclass(frozen=True)
class LoraConfig:
    """What is adapted, and how."""

    rank: int = 8
    alpha: float = 8.0
    """``s`` is alpha / rank"""
    targets: tuple[str, ...] = ("*blocks.*",)
    """linears, by the end of their path (``proj`` is ``img_attn.proj``, not ``q_proj``) or as a pattern of the whole
    path with ``*`` and ``?``; a text that begins with ``re:`` is a regular expression of the whole path"""
    dropout: float = 0.0
    """share of the input of ``A`` that training leaves out"""
    rank_stabilised: bool = False
    """``s`` is alpha / sqrt(rank), https://arxiv.org/abs/2312.03732"""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """other ranks, by the end of a path"""
    alphas: Mapping[str, float] = field(default_factory=dict)
    """other alphas, by the end of a path"""

    def wants(self, path: str) -> bool:
        """Whether the linear at a path is adapted."""
        return any(_is_target(path, target) for target in self.targets)

    def rank_of(self, path: str) -> int:
        return _special(self.ranks, path, self.rank)

    def scale_of(self, path: str) -> float:
        return scale_of(_special(self.alphas, path, self.alpha), self.rank_of(path), self.rank_stabilised)


class LoraBranch(nn.Cell):
    """``s * B (A x)``; ``B`` is zero at first, and ``A`` uniform in ±1/sqrt(in)."""

    def __init__(self, linear: Linear, rank: int, scale: float):
        super().__init__()
        self.lora_A = Linear(linear.in_features, rank, has_bias=False)
        self.lora_B = Linear(rank, linear.out_features, has_bias=False)
        self.lora_A.compute_dtype = self.lora_B.compute_dtype = linear.compute_dtype
        self.scale = float(scale)
        self.dropout: nn.Cell | None = None

    def construct(self, x: Tensor) -> Tensor:
        if self.dropout is not None:
            x = self.dropout(x)
        return self.lora_B(self.lora_A(x)) * self.scale


class Lora:
    """The adapter of a network: what is trained of it, and all that its checkpoints hold.

    Attributes:
        branches: `LoraBranch` by the path of the linear it belongs to.
        seeds: int32 parameter (2,) that the masks of dropout depend on, for `SeededLoss`; None without dropout.
    """

    def __init__(
        self, network: nn.Cell, config: LoraConfig, branches: Mapping[str, LoraBranch], seeds: Parameter | None
    ):
        self.network, self.config, self.branches, self.seeds = network, config, dict(branches), seeds

    def parameters_and_names(self) -> Iterator[tuple[str, Parameter]]:
        """The trained parameters under peft's names."""
        for path, branch in self.branches.items():
            yield f"{PEFT_PREFIX}{path}.lora_A.weight", branch.lora_A.weight
            yield f"{PEFT_PREFIX}{path}.lora_B.weight", branch.lora_B.weight

    def get_parameters(self) -> list[Parameter]:
        """All parameters of the network, adapted or not."""
        return list(self.network.get_parameters())

    def peft_config(self, base: str | None = None) -> dict[str, Any]:
        """The ``adapter_config.json`` of peft, which names every module.

        Args:
            base: where the network's own weights are from.
        """
        config = self.config
        return {
            "peft_type": "LORA",
            "base_model_name_or_path": base,
            "inference_mode": True,
            "r": config.rank,
            "lora_alpha": config.alpha,
            "lora_dropout": config.dropout,
            "use_rslora": config.rank_stabilised,
            "target_modules": sorted(self.branches),
            "rank_pattern": dict(config.ranks),
            "alpha_pattern": dict(config.alphas),
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "modules_to_save": None,
        }

    def load(self, tensors: LoraTensors) -> None:
        """Goes on from an earlier adapter of the same modules, ranks and scales.

        Raises:
            UserError: it has others.
        """
        mine, theirs = set(self.branches), set(tensors.modules)
        if mine != theirs:
            odd = sorted(mine ^ theirs)
            raise UserError(f"{tensors.path} adapts other modules than the settings ask for, such as {odd[0]}")
        for path, branch in self.branches.items():
            module = tensors.modules[path]
            if module.rank != branch.lora_A.weight.shape[0] or not math.isclose(module.scale, branch.scale):
                raise UserError(
                    f"{tensors.path} has rank {module.rank} and scale {module.scale:g} at {path}, the settings ask for "
                    f"rank {branch.lora_A.weight.shape[0]} and scale {branch.scale:g}; use the same ones"
                )
            branch.lora_A.weight.set_data(Tensor(module.down.astype("float32")))
            branch.lora_B.weight.set_data(Tensor(module.up.astype("float32")))


def add_lora(network: nn.Cell, config: LoraConfig, seed: int = 0) -> Lora:
    """Adapts linears of a network, which computes the same as before until it is trained, and freezes all the rest.

    To be called after the network has its weights and dtypes, and before it is compiled. ``A`` of every module has a
    random stream of its own.

    Raises:
        UserError: no linear is a target, or a target matches none.
    """
    linears = {path: cell for path, cell in network.cells_and_names() if isinstance(cell, Linear)}
    for target in config.targets:
        if not any(_is_target(path, target) for path in linears):
            raise UserError(f"lora_target: no linear of the network fits {target}; some are {_some(list(linears))}")
    for parameter in network.get_parameters():
        parameter.requires_grad = False
    seeds = new_seeds() if config.dropout else None
    branches = {}
    for path, linear in linears.items():
        if not config.wants(path):
            continue
        branch = LoraBranch(linear, config.rank_of(path), config.scale_of(path))
        bound = 1 / math.sqrt(linear.in_features)
        init.uniform(branch.lora_A.weight, runtime.stream(seed, "lora", path), bound)
        init.zeros(branch.lora_B.weight)
        if seeds is not None:
            branch.dropout = SeededDropout(config.dropout, len(branches), seeds)
        linear.adapter = branches[path] = branch
        # A cell that comes late has the names of its own place alone.
        for name, parameter in branch.parameters_and_names():
            parameter.name = f"{path}.{name}"
    return Lora(network, config, branches, seeds)


def set_strength(lora: Lora, strength: float) -> None:
    """Multiplies the scale of every module, once; to be called before the network is compiled."""
    for path, branch in lora.branches.items():
        branch.scale = lora.config.scale_of(path) * strength


def _is_target(path: str, target: str) -> bool:
    if target.startswith("re:"):
        return re.fullmatch(target[3:], path) is not None
    return path == target or path.endswith(f".{target}") or matches(path, (target,))


def _special(values: Mapping[str, Any], path: str, usual: Any) -> Any:
    return next((value for end, value in values.items() if path == end or path.endswith(f".{end}")), usual)


def _some(paths: Sequence[str]) -> str:
    """The ends of a few paths."""
    return ", ".join(list(dict.fromkeys(path.rpartition(".")[2] for path in paths))[:6])
