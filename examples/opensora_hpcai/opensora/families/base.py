"""What a version of Open-Sora is: the protocol of a family, and what training and generation hand over to it.

A family owns the values of settings that are left open (`Family.defaults`), what its networks cannot do
(`Family.check`), how names become sizes (`Family.size`), its text (`Family.conditioner`), its training loss
(`Family.objective`) and its way from noise to latents (`Family.sampler`). Nothing else branches on the version.

Legend: `B` batch, `C` channels, `T` latent frames, `H`/`W` latent height and width, `L` text tokens, `D` their width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from mindone.config import Settings, about
from mindone.errors import UserError
from mindone.train.band import LossBand
from opensora.config.common import Refusals, Shape, Text, refuse
from opensora.data.buckets import BucketConfig, BucketRules
from opensora.sizes import VideoSize, video_size

if TYPE_CHECKING:
    from mindspore import Tensor, nn

    from mindone.data.table import VideoRow
    from mindone.train.loop import Place
    from opensora.conditions.given import Conditioning
    from opensora.config.generate import Sampler as SamplerSettings
    from opensora.config.train import Flow
    from opensora.families.cached import StepCache
    from opensora.models.types import DenoiserConfig
    from opensora.text.conditioner import Conditioner

# (B, C, T, H, W) float32 noise of a sampling step.
StepNoise = Callable[[int], np.ndarray]
# Text conditioning of a batch by name, one row per sample: what a `Conditioner` gives.
Arrays = Mapping[str, np.ndarray]


def is_on(value: object) -> bool:
    """Whether a setting asks for something: a switch that is on, or a list with a text in it."""
    return any(value) if isinstance(value, list) else bool(value)


# Rows of patches, for versions that do not sample with them.
NO_PATCHES: Refusals = {
    "pre_patchify": (is_on, "leave it out; version 1.1 has it"),
    "resize_by_max_value": (is_on, "leave it out; version 1.1 trains on such latents, with pre_patchify"),
}


# Given pictures, clips and frames, for versions whose networks know none.
NO_GIVEN_FRAMES: Refusals = {
    "mask_ratios": (is_on, "leave it out; its network knows no given frames"),
    "condition_config": (is_on, "leave it out; version 2.0 has it"),
    "fps_max": (is_on, "use frame_stride"),
    "reference_path": (is_on, "use version 1.1 or later"),
    "mask_strategy": (is_on, "use version 1.1 or later"),
    "task": (is_on, "use version 1.1 or later"),
    "loop": (lambda value: value > 1, "use version 1.1 or 1.2"),
}


# What only 2.0 has, for the versions before it.
ONLY_2_0: Refusals = {
    "prompt_suffix": (lambda value: not value, "leave it out; only version 2.0 adds one"),
    "condition_kinds": (is_on, "leave it out; version 2.0 has it"),
    "paste_tail": (lambda value: not value, "leave it out; version 2.0 has it"),
    "sequence_parallel_method": (lambda value: value == "ring", "use ulysses; version 2.0 has it"),
}


@dataclass(frozen=True)
class PromptRules:
    """What is added to a prompt and how it is cleaned; None leaves a suffix out."""

    aesthetic_score: float | None = None
    motion_score: float | None = None
    camera_motion: str | None = None
    cleaning: str = "basic"
    fps: float | None = None
    """frames per second of the video, for versions that say it in words"""


@dataclass(frozen=True)
class LatentBatch:
    """A training batch as every family takes it: encoded, normalised, and not yet noised."""

    latents: Tensor
    """(B, C, T, H, W) float32, normalised"""
    text: Arrays
    fps: np.ndarray
    """(B,) float32, frames per second; 120 for images"""
    num_frames: np.ndarray
    """(B,) float32, frames in pixel space"""
    height: np.ndarray
    """(B,) float32, pixels"""
    width: np.ndarray
    """(B,) float32, pixels"""
    frames_mask: np.ndarray | None = None
    """(B, T) bool, True = to be generated, False = given; None: all are generated"""
    packed: Arrays | None = None
    """conditions of rows of patches, which the latents are then, see `opensora.families.packed.Packing.conditions`"""
    condition: np.ndarray | None = None
    """(B, 1 + C, T, H, W) float32, masks and masked latents, for networks that are told what is given"""


class Objective(ABC):
    """The training loss of one denoiser: a differentiable cell, and the inputs of that cell for a batch."""

    part_names: tuple[str, ...] = ()
    """names of the scalars that the cell returns beside the loss"""
    band: ClassVar[LossBand] = LossBand(2.0)
    """what the loss is of a network that gives zeros, for latents of variance 1; a flow's is that of data and noise"""

    @abstractmethod
    def loss_cell(self, denoiser: nn.Cell) -> nn.Cell:
        """A cell ``(*inputs) -> loss`` or ``-> (loss, parts)``, deterministic in its inputs."""

    def negative_of(self, text: Arrays) -> Arrays | None:
        """What sampling during training moves away from, a row for each text; None: a caption that is learned."""
        return None

    @abstractmethod
    def loss_inputs(self, batch: LatentBatch, place: Place, at: float | None = None) -> tuple[Tensor | None, ...]:
        """The inputs of `loss_cell`; every random number belongs to one sample's place.

        Args:
            at: for validation: all samples are at this point between data (0) and noise (1), whatever the distribution
                of training timesteps is, and keep their captions.
        """


@dataclass(frozen=True)
class SampleRequest:
    """A batch of latents to sample.

    ``noise`` holds, in frames that ``edit_mask`` keeps, the given latents instead of noise.
    """

    noise: np.ndarray
    """(B, C, T, H, W) float32"""
    text: Arrays
    size: VideoSize
    """frames, height and width in pixels"""
    fps: float
    negative: Arrays | None = None
    """text to move away from; None: the family's empty caption"""
    edit_mask: np.ndarray | None = None
    """(B, T) in [0, 1]: 0 keeps a frame as given, 1 generates it, in between it is edited from that noise level on"""
    step_noise: StepNoise | None = None
    """noise of step i, for samplers that draw"""
    edit_noise: StepNoise | None = None
    """noise for frames that join at step i"""
    condition: np.ndarray | None = None
    """(B, 1 + C, T, H, W), masks and masked latents, for networks that are told what is given; None: nothing is"""
    pasted: np.ndarray | None = None
    """(B, 1, T, 1, 1) bool: which of the given latents stand in the result as they are; None: all"""


class Sampler(Protocol):
    """Denoises batch after batch with one network, which is compiled once per shape."""

    num_steps: int

    def steps(self, request: SampleRequest) -> Iterator[np.ndarray]:
        """Yields the latents (B, C, T, H, W) float32 after every step; the last ones are the result."""
        ...


@dataclass(frozen=True)
class Family(ABC):
    """One version of Open-Sora."""

    name: str
    model_max_length: int
    """text tokens; a model folder's config.json may say otherwise"""
    num_frames: int
    """frames of a video whose length is not given"""
    denoiser_preset: str
    autoencoder_preset: str

    refused: ClassVar[Refusals] = {}
    """what this version cannot do, beside what none can"""
    conditioning: ClassVar[Conditioning | None] = None
    """how given pictures and clips become part of a video; None: they cannot"""
    default_negative: ClassVar[str | None] = None
    """what guided sampling moves away from without a negative prompt; None: a caption that the network has learned"""

    drops_text: ClassVar[bool] = False
    """whether training replaces some texts by the encoded empty prompt, instead of a caption that is learned"""
    text_encoders: ClassVar[tuple[str, ...]] = ("t5_model_name_or_path",)
    """settings that name the folders of text encoders"""
    networks: ClassVar[tuple[str, ...]] = ()
    """what the names of its denoisers begin with"""

    @abstractmethod
    def defaults(self) -> dict[str, Any]:
        """The values of settings that are left at None, by their names."""

    def network_named(self, name: str) -> str:
        """The denoiser's name in `opensora.networks` for the ``model_name`` of a command.

        Raises:
            UserError: this version has no such network.
        """
        from opensora.networks import denoiser_presets

        known = [preset for preset in denoiser_presets() if preset.startswith(self.networks)]
        if name not in known:
            raise UserError(
                f"model_name={name} is no network of model_version {self.name}; use one of {', '.join(known)}"
            )
        return name

    def encoders_of(self, denoiser_config: DenoiserConfig) -> tuple[str, ...]:
        """Those of `text_encoders` that a denoiser needs."""
        return self.text_encoders

    def check(self, config: Settings) -> None:
        """Refuses what this version cannot do; ``config`` is a whole command's settings, with `defaults` filled in.

        Raises:
            UserError: one sentence that names the setting, the value and what to use instead.
        """
        refuse(config, self.refused, f"model_version {self.name}")
        shape = getattr(config, "shape", None)
        if getattr(shape, "bucket_config", None) and not shape.is_fixed:
            with about("bucket_config"):
                self.bucket_rules(shape.bucket_config)

    def size(self, shape: Shape, compression: int = 8) -> VideoSize:
        """(frames, height, width) in pixels of what the user asks for by numbers or by names.

        Raises:
            UserError: no size, unknown names, or an explicit size that ``compression`` does not divide.
        """
        return video_size(
            shape.num_frames or self.num_frames, shape.image_size, shape.resolution, shape.aspect_ratio, compression
        )

    def bucket_rules(self, config: BucketConfig, compression: int = 8) -> BucketRules:
        """At which size samples train; sides are multiples of ``compression`` where the version's sizes follow a rule.

        Raises:
            UserError: unknown names or values that cannot be, or a version that trains at one size only.
        """
        raise UserError(f"bucket_config is not supported by model_version {self.name}; give image_size")

    def described(
        self, rows: Sequence[VideoRow], rates: Sequence[float] | None, fps_max: float | None
    ) -> Sequence[VideoRow]:
        """Rows of training videos whose captions say what this version says of them, before `prepare_prompt`.

        Args:
            rates: frames per second of the files, 0 where it is not known; None: those that the rows say.
            fps_max: see `opensora.config.train.TrainShape`.
        """
        return rows

    @abstractmethod
    def prepare_prompt(self, prompt: str, rules: PromptRules) -> str:
        """The text that is encoded for a prompt."""

    @abstractmethod
    def conditioner(
        self, text: Text, denoiser_config: DenoiserConfig | None = None, batch_size: int = 1
    ) -> Conditioner:
        """What turns texts, or their cache files, into the arrays that the denoiser takes.

        ``denoiser_config`` gives their length and width; without it, those of the settings and of the encoder.
        """

    @abstractmethod
    def objective(self, flow: Flow, denoiser_config: DenoiserConfig, null_text: Arrays | None = None) -> Objective:
        """The training loss as the settings say; ``null_text`` has the arrays of the empty prompt, one row."""

    @abstractmethod
    def sampler(self, denoiser: nn.Cell, settings: SamplerSettings, step_cache: StepCache | None = None) -> Sampler:
        """What makes latents of noise with this denoiser; ``step_cache`` leaves blocks out in some steps."""


def seeded_noise(seeds: Sequence[int], shape: Sequence[int], name: str) -> StepNoise:
    """Noise per step, (B, *shape); that of a sample depends on its seed, ``name`` and the step alone."""
    from mindone import runtime

    def draw(step: int) -> np.ndarray:
        streams = [runtime.stream(seed, name, step) for seed in seeds]
        return np.stack([stream.standard_normal(tuple(shape), np.float32) for stream in streams])

    return draw


def initial_noise(seeds: Sequence[int], shape: Sequence[int], loop: int = 0) -> np.ndarray:
    """(B, *shape) float32 noise of the clip number ``loop`` of a long video.

    That of a sample depends on its own seed alone, not on the batch it sits in.
    """
    from mindone import runtime

    names = ("sample", loop) if loop else ("sample",)
    return np.stack([runtime.stream(seed, *names).standard_normal(tuple(shape), np.float32) for seed in seeds])
