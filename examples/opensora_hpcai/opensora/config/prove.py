"""Settings of ``prove``: those of a training, and how its work is spread."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindone.config import FilePath, SettingError, require_at_least
from opensora.config.train import TrainConfig

WAYS = ("dp", "sp", "dsp", "ring", "zero", "accumulate")


@dataclass(frozen=True)
class Spread:
    """How processes share a training."""

    dp: int = 1
    """ranks, or rows of ranks, with samples of their own"""
    sp: int = 1
    """ranks that share a video by tokens"""
    dsp: int = 1
    """ranks that share a video by frames and tokens in turn"""
    ring: int = 1
    """ranks that share a video by tokens, keys and values going round"""
    zero: int = 0
    """what is split among ranks with samples of their own: stage of ZeRO"""
    accumulate: int = 1
    """batches of an update"""

    @property
    def row(self) -> int:
        """Ranks that share a video."""
        return max(self.sp, self.dsp, self.ring)

    @property
    def ranks(self) -> int:
        return self.dp * self.row

    @property
    def processes(self) -> str:
        """``ranks`` in words."""
        return f"{self.ranks} process{'es' if self.ranks > 1 else ''}"

    @property
    def batches(self) -> int:
        """Batches of an update, of all ranks."""
        return self.dp * self.accumulate

    def __str__(self) -> str:
        """As a plan: ``dp=2,sp=2``."""
        given = {way: getattr(self, way) for way in WAYS}
        return ",".join(f"{way}={number}" for way, number in given.items() if number > (way != "zero"))


def read_spread(plan: str) -> Spread:
    """A plan as numbers.

    Raises:
        SettingError: a way that is not known, not a number, or ways that do not go together.
    """
    values: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in plan.split(","))):
        name, _, number = part.partition("=")
        if name not in WAYS or not number.isascii() or not number.isdigit() or name in values:
            raise SettingError(
                f"plan={plan}: {part} is not one of {', '.join(f'{way}=N' for way in WAYS)}, each once", "plan"
            )
        values[name] = int(number)
    spread = Spread(**values)
    if min(spread.dp, spread.sp, spread.dsp, spread.ring, spread.accumulate) < 1 or spread.zero > 3:
        raise SettingError(f"plan={plan}: numbers are at least 1, and zero is 0 to 3", "plan")
    if (spread.sp, spread.dsp, spread.ring).count(1) < 2:
        raise SettingError(f"plan={plan}: sp, dsp and ring share a video in different ways; give one", "plan")
    if spread.ranks * spread.accumulate == 1:
        raise SettingError(f"plan={plan} is one process; give dp, sp, dsp, ring or accumulate more than 1", "plan")
    return spread


@dataclass
class Proof:
    """How the work is spread, and what of the recipe is kept."""

    plan: str | list[str] = "dp=2"
    """processes and what they share: dp=2 (samples), sp=2 (a video, by tokens), dsp=2 (a video, by frames and tokens),
    ring=3 (a video of version 2.0, by tokens; keys and values go round), zero=1 (optimizer; 2: gradients too; 3:
    weights too), accumulate=2 (batches of an update); several as in dp=2,sp=2,zero=1; several plans, each compared with
    the same run of one process, as in dp=2 sp=2 dp=2,sp=2"""
    proof_steps: int = 20
    """updates that are compared"""
    proof_layers: int = 2
    """blocks that the network keeps"""
    full_width: bool = False
    """keep the network's width, for devices that have the memory; it becomes 48 otherwise"""
    proof_path: FilePath | None = None
    """folder that keeps the runs; they are removed if not given"""

    def check(self) -> None:
        require_at_least(self, proof_steps=1, proof_layers=1)
        spreads = self.spreads
        if not spreads:
            raise SettingError("plan needs at least one, as in dp=2", "plan")
        twice = [str(spread) for index, spread in enumerate(spreads) if spread in spreads[:index]]
        if twice:
            raise SettingError(f"plan has {twice[0]} more than once", "plan")

    @property
    def spreads(self) -> list[Spread]:
        """The plans as numbers.

        Raises:
            SettingError: a plan that means nothing.
        """
        return [read_spread(plan) for plan in ([self.plan] if isinstance(self.plan, str) else self.plan)]


@dataclass
class ProveConfig(TrainConfig):
    """Does a training on many processes give the numbers of one?"""

    proof: Proof = field(default_factory=Proof)

    def check(self) -> None:
        """The data, weights and sizes of the recipe are replaced, so that they may be missing."""
