"""From the names that checkpoints use to the published names that our networks have.

An adapter is a pure function from a name to a name. `resolve` applies adapters only to names that the network does not
know, one after the other, and stops as soon as it does; so a file with published names is never touched.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from mindone.errors import UserError

Adapter = Callable[[str], str]
Shape = tuple[int, ...]

# What published files hold beyond the parameters: computed buffers, the second name of a tied matrix, and the counters
# that MindSpore's training callbacks put beside the weights. Buffers of one network are its own business: its attribute
# ``computed_buffers`` names them.
ALWAYS_UNEXPECTED = (
    "*.inv_freq",
    "*position_ids",
    "*.num_batches_tracked",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "epoch_num",
    "step_num",
    "global_step",
    "learning_rate",
)

# What compilers, sharding, recomputation and data parallelism put anywhere into names.
_INSIDE = (
    "_backbone.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_fpw_module.",
    "_checkpoint_wrapped_module.",
    "_forward_module.",
)
_PREFIX = re.compile(r"^(network|backbone|module|ema|model|ema_model|model_ema|online_model|averaged_model)\.")
# Names under which trainers hold the network. A network may have such a part itself, so they go only where everything
# stands behind them.
_COMMON_PREFIX = re.compile(r"^(net|generator|gen_model|net_g|denoiser|diffusion_model|student|unet|dit|transformer)\.")
_MINDSPORE_ENDS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "embedding_table": "weight",
}
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_COMPVIS_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
COMPVIS_LEVELS = 4


def without_wrappers(name: str) -> str:
    """Drops what wrappers put into names: ``_orig_mod.`` and the like anywhere, ``module.``, ``ema.`` in front."""
    for part in _INSIDE:
        name = name.replace(part, "")
    while _PREFIX.match(name):
        name = _PREFIX.sub("", name, count=1)
    return name


def common_wrappers(names: Collection[str]) -> str:
    """The names of wrappers that every name begins with, such as ``model.generator.``; empty if there are none."""
    first = next(iter(names), "")
    end = 0
    while match := (_PREFIX.match(first[end:]) or _COMMON_PREFIX.match(first[end:])):
        if not all(name.startswith(first[: end + match.end()]) for name in names):
            break
        end += match.end()
    return first[:end]


def foreign_prefix(names: Collection[str], known: Collection[str]) -> tuple[str, int]:
    """The beginning behind which most names of a file are names of the network, and how many those are."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        counts.update(
            ".".join(parts[:depth]) + "." for depth in range(1, len(parts)) if ".".join(parts[depth:]) in known
        )
    return counts.most_common(1)[0] if counts else ("", 0)


def from_mindspore(name: str) -> str:
    """MindSpore's last part of a name to the published one: ``norm.gamma`` → ``norm.weight`` and the like."""
    head, dot, last = name.rpartition(".")
    return head + dot + _MINDSPORE_ENDS.get(last, last)


def from_old_attention(name: str) -> str:
    """``query/key/value/proj_attn`` of older autoencoder files to ``to_q/to_k/to_v/to_out.0``."""
    parts = name.split(".")
    if len(parts) > 2 and parts[-2] in _ATTENTION and "attentions" in parts:
        parts[-2] = _ATTENTION[parts[-2]]
    return ".".join(parts)


def from_compvis(name: str, levels: int = COMPVIS_LEVELS) -> str:
    """Autoencoder names of latent-diffusion files to the published ones of AutoencoderKL.

    ``encoder.down.i.block.j`` → ``encoder.down_blocks.i.resnets.j``; ``decoder.up.i.block.j`` →
    ``decoder.up_blocks.(levels-1-i).resnets.j``; ``mid.block_k``, ``mid.attn_1``, ``norm_out`` and ``nin_shortcut``.
    """
    name = re.sub(r"\bdown\.(\d+)\.block\.", r"down_blocks.\1.resnets.", name)
    name = re.sub(r"\bdown\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0.", name)
    name = re.sub(r"\bup\.(\d+)\.block\.", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.resnets.", name)
    name = re.sub(r"\bup\.(\d+)\.upsample\.", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.upsamplers.0.", name)
    name = re.sub(r"\bmid\.block_(\d+)\.", lambda m: f"mid_block.resnets.{int(m[1]) - 1}.", name)
    name = re.sub(
        r"\bmid\.attn_1\.(norm|q|k|v|proj_out)\.", lambda m: f"mid_block.attentions.0.{_COMPVIS_ATTENTION[m[1]]}.", name
    )
    name = re.sub(r"\b(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out.", name)
    return name.replace(".nin_shortcut.", ".conv_shortcut.")


def tied_embedding(name: str) -> str:
    """The token matrix of T5 under its second name, for files that hold only that one."""
    return "shared.weight" if name == "encoder.embed_tokens.weight" else name


DEFAULT_ADAPTERS: tuple[Adapter, ...] = (
    without_wrappers,
    from_mindspore,
    from_old_attention,
    from_compvis,
    tied_embedding,
)


def published_name(name: str, known: Collection[str] = (), adapters: Sequence[Adapter] = DEFAULT_ADAPTERS) -> str:
    """The name after the adapters, which stop at the first name that is in ``known``."""
    for adapter in adapters:
        if name in known:
            break
        name = adapter(name)
    return name


def resolve(
    names: Collection[str], known: Collection[str], adapters: Sequence[Adapter] = DEFAULT_ADAPTERS
) -> tuple[dict[str, str], list[str]]:
    """Pairs the names of a network with the names of a file.

    Returns:
        network name → file name for all that were found, and the names of the file that fit nothing.
    Raises:
        UserError: two names of the file lead to the same one, and neither is exactly it.
    """
    found = {name: name for name in names if name in known}
    exact, unexpected = frozenset(found), []
    common = "" if found else common_wrappers(names)
    for name in names:
        if name in exact:
            continue
        target = published_name(name[len(common) :], known, adapters)
        if target not in known or target in exact:
            unexpected.append(name)
        elif target in found:
            raise UserError(f"{name} and {found[target]} are both {target}; keep one of them in the checkpoint")
        else:
            found[target] = name
    return found, unexpected


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the patterns (``*`` and ``?`` as in file names)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def fits_after_reshape(name: str, shape: Shape, target: Shape) -> bool:
    """Whether a tensor of a file has the values of ``target`` in another, documented shape.

    Patch kernels (D, C, pt, ph, pw) are stored as (D, C, ph, pw) or (D, C*pt*ph*pw) by 2D and linear patch embeddings;
    matrices of attention as 1x1 kernels, and the other way round; ``scale`` and ``shift`` of the video autoencoder
    (1, C, 1, 1, 1) as (C,).
    """
    if math.prod(shape) != math.prod(target):
        return False
    last = name.rpartition(".")[2]
    if last in ("scale", "shift"):
        return _squeezed(shape) == _squeezed(target)
    if last != "weight":
        return False
    if len(target) == 5:
        return shape in ((target[0], math.prod(target[1:])), target[:2] + target[3:])
    wide, narrow = sorted((shape, target), key=len, reverse=True)
    return len(wide) == 4 and len(narrow) == 2 and wide[:2] == narrow


def _squeezed(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def renames(names: Collection[str], adapters: Sequence[Adapter] = DEFAULT_ADAPTERS) -> Mapping[str, str]:
    """file name → published name for every name that the adapters change."""
    return {name: new for name in names if (new := published_name(name, (), adapters)) != name}
