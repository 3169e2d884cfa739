"""Settings of OpenDiT's commands for Open-Sora 1.0, by their published names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mindone.config import FilePath, Settings, require_at_least
from mindone.errors import UserError
from opensora.config.common import Dtype, Runtime

KERNELS = {
    "enable_layernorm_kernel": "norms run in the best form of the device",
    "enable_modulate_kernel": "modulation runs in the best form of the device",
    "enable_flashattn": "attention runs in the best form of the device: flash attention on Ascend",
    "text_speedup": "the text encoder runs in the best form of the device",
}


@dataclass
class Weights:
    """Weights of the networks."""

    model_pretrained_path: FilePath | None = None
    """folder or file of the network's weights; of a training also an image model's (PixArt, DiT)"""
    vae_pretrained_path: FilePath | None = None
    """folder or file of the autoencoder's weights (published: stabilityai/sd-vae-ft-ema)"""
    text_pretrained_path: FilePath | None = None
    """folder of the T5 encoder (published: DeepFloyd/t5-v1_1-xxl)"""
    text_max_length: int = 120
    """tokens of a text"""
    model_space_scale: float = 1.0
    """positions within a frame are divided by it: 0.5 for 256 pixels, 1 for 512"""
    model_time_scale: float = 1.0
    """positions of frames are divided by it: 1 for 16 frames, 2/3 for 64"""
    sequence_parallel_size: int = 1
    """devices that share a video (DSP)"""

    def check(self) -> None:
        require_at_least(self, text_max_length=1, sequence_parallel_size=1)


@dataclass
class SampleOpenDiT:
    """The videos."""

    image_size: list[int] = field(default_factory=lambda: [512, 512])
    """height and width in pixels"""
    num_frames: int = 64
    """frames"""
    fps: int = 12
    """frames per second of the files"""
    dtype: Dtype = "fp32"
    """precision of the network"""
    scheduler_num_sampling_steps: int = 100
    """denoising steps"""
    scheduler_cfg_scale: float = 7.0
    """strength of the prompt"""
    captions: list[str] | None = None
    """prompts, which OpenDiT has inside its script"""
    prompt_path: FilePath | None = None
    """file of prompts, one a line"""
    batch_size: int = 1
    """videos that are denoised at once"""
    outputs: FilePath = "samples"
    """folder for the videos"""

    def check(self) -> None:
        require_at_least(self, num_frames=1, fps=1, scheduler_num_sampling_steps=1, scheduler_cfg_scale=0, batch_size=1)


@dataclass
class SampleOpenDiTConfig(Settings):
    """Videos with Open-Sora 1.0, by OpenDiT's options."""

    weights: Weights = field(default_factory=Weights)
    video: SampleOpenDiT = field(default_factory=SampleOpenDiT)
    runtime: Runtime = field(default_factory=Runtime)

    aliases: ClassVar[dict[str, str]] = {
        "prompt": "captions",
        "ckpt": "model_pretrained_path",
        "save_dir": "outputs",
        "num_sampling_steps": "scheduler_num_sampling_steps",
        "cfg_scale": "scheduler_cfg_scale",
    }
    accepted_but_unused: ClassVar[dict[str, str]] = KERNELS


@dataclass
class TrainOpenDiT:
    """Data, length and optimizer of a training."""

    data_path: FilePath | None = None
    """table with the columns path and text, or video and caption"""
    video_folder: FilePath | None = None
    """folder that the paths of the table start from; that of the table if not given"""
    image_size: list[int] = field(default_factory=lambda: [512, 512])
    """height and width in pixels"""
    num_frames: int = 16
    """frames"""
    frame_interval: int = 3
    """take every n-th frame"""
    batch_size: int = 2
    """videos per device"""
    epochs: int = 1000
    """passes over the data"""
    train_steps: int = -1
    """updates; more than 0 replaces epochs"""
    lr: float = 2e-5
    """learning rate"""
    mixed_precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """precision of the network; bf16 runs in float32 on a CPU"""
    grad_checkpoint: bool = False
    """recompute blocks in the backward pass: less memory, more time"""
    num_workers: int = 4
    """loader processes; 0: load in the training process"""
    log_every: int = 10
    """updates between log lines"""
    ckpt_every: int = 1000
    """updates between checkpoints"""
    load: FilePath | None = None
    """folder of a run, or of one of its checkpoints, to go on with"""
    outputs: FilePath = "outputs"
    """folder of the run"""

    def check(self) -> None:
        require_at_least(self, num_frames=1, frame_interval=1, batch_size=1, epochs=1, lr=0, num_workers=0)
        require_at_least(self, log_every=1, ckpt_every=1)
        if not self.data_path:
            raise UserError("data_path is not set; give the table of the training videos as --data_path FILE.csv")


@dataclass
class TrainOpenDiTConfig(Settings):
    """Training Open-Sora 1.0, by OpenDiT's options."""

    weights: Weights = field(default_factory=Weights)
    training: TrainOpenDiT = field(default_factory=TrainOpenDiT)
    runtime: Runtime = field(default_factory=Runtime)

    aliases: ClassVar[dict[str, str]] = {"global_seed": "seed"}
    accepted_but_unused: ClassVar[dict[str, str]] = {
        **KERNELS,
        "plugin": "every device has all weights (ddp); there are no other ways here yet",
    }
