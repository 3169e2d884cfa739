"""What all benchmark cases share: both sides have the same weights, agree, and are trained by the same update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from bench import Case
from mindspore import Tensor, nn

from mindone import runtime
from mindone.checkpoint import load_into
from mindone.train.ema import Ema
from mindone.train.optim import AdamW
from mindone.train.step import TrainStep

LEARNING_RATE, BETAS, EPS, CLIP, EMA_DECAY = 1e-4, (0.9, 0.999), 1e-8, 1.0, 0.99
TORCH = "PyTorch eager"


Maker = Callable[[], contextlib.AbstractContextManager[Case]]


def prepare(threads: int) -> None:
    """Graph mode on our side, ``threads`` on PyTorch's; MindSpore itself takes all cores that it may use.

    `ms.runtime.dispatch_threads_num` is no way to say so: any number above one runs matrix products in one thread.
    """
    runtime.setup("CPU")
    torch.set_num_threads(threads)
    torch.manual_seed(0)


def same_weights(network: nn.Cell, source: torch.nn.Module) -> None:
    """Gives our network the weights of PyTorch's: the names are the same."""
    load_into(network, {name: value.numpy() for name, value in source.state_dict().items()})


def agree(ours: Tensor | np.ndarray, theirs: torch.Tensor, tolerance: float = 1e-3) -> None:
    """Stops the run unless both sides compute the same."""
    ours, theirs = np.asarray(ours.asnumpy() if isinstance(ours, Tensor) else ours), theirs.detach().numpy()
    difference, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
    if not difference <= tolerance * max(largest, 1e-6):
        raise RuntimeError(f"the two sides differ by {difference:.2e} where the largest value is {largest:.2e}")


def updates(
    loss: nn.Cell, batches: list, theirs: torch.nn.Module, torch_loss: Callable[[], torch.Tensor]
) -> tuple[Callable[[], Tensor], Callable[[], torch.Tensor]]:
    """A whole update of both sides, which return the loss: gradients, clipping, AdamW, EMA. The first two agree."""
    trained = list(loss.trainable_params())
    step = TrainStep(loss, AdamW(trained, BETAS, EPS), Ema(trained, EMA_DECAY), max_grad_norm=CLIP)
    parameters = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    average = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, BETAS, EPS, weight_decay=0.0)

    def torch_step() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch_loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        torch._foreach_lerp_(average, parameters, 1 - EMA_DECAY)
        return value

    def our_step() -> Tensor:
        return step(batches, LEARNING_RATE).loss

    for _ in range(2):
        agree(our_step(), torch_step())
    return our_step, torch_step
