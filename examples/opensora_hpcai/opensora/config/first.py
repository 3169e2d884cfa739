"""Settings of the commands of Open-Sora's first release, by their published names: ``train.py`` and ``sample.py``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mindone.config import FilePath, Settings, require, require_at_least
from mindone.errors import UserError
from opensora.config.common import Dtype, Runtime

Architecture = Literal["adaln", "cross-attn", "token-concat"]
Compressor = Literal["raw", "vqvae", "vae"]
SHORT = {"m": "model", "x": "model_arch", "c": "compressor"}


@dataclass
class Network:
    """The network, and what its videos and texts go through."""

    model: str = "DiT-S/8"
    """size of the network: DiT-XL, L, B or S, with patches of 2, 4 or 8, such as DiT-XL/2 (also written DiT/XL-2)"""
    model_arch: Architecture | None = None
    """how the text gets in: its vector beside the timestep, attention to its tokens, or its tokens before the video's;
    cross-attn, or what the weights' config.json says, if not given"""
    compressor: Compressor = "raw"
    """raw pixels, VideoGPT's VQ-VAE, or the autoencoder of Stable Diffusion"""
    compressor_path: FilePath | None = None
    """folder or file of the weights of vqvae or vae"""
    text_model: FilePath | None = None
    """folder of the CLIP text encoder (published: openai/clip-vit-base-patch32)"""
    dtype: Dtype = "fp32"
    """precision of the network; bf16 runs in float32 on a CPU"""

    def check(self) -> None:
        require(
            self,
            "compressor_path",
            self.compressor == "raw" or bool(self.compressor_path),
            f"the weights of compressor={self.compressor}",
        )


@dataclass
class SampleFirst:
    """One video."""

    text: str | None = None
    """what the video shall show"""
    ckpt: FilePath | None = None
    """folder or file of the network's weights"""
    height: int = 320
    """in pixels"""
    width: int = 480
    """in pixels"""
    fps: int = 15
    """frames per second"""
    sec: float = 8.0
    """seconds; the video has fps * sec frames"""
    cfg_scale: float = 4.0
    """strength of the text"""
    disable_cfg: bool = False
    """no guidance: half the work"""
    num_sampling_steps: int = 250
    """denoising steps"""
    output: FilePath = "sample.mp4"
    """the video's file; a folder of its name has the settings, and the videos of earlier runs"""

    def check(self) -> None:
        require_at_least(self, height=1, width=1, fps=1, cfg_scale=0, num_sampling_steps=1)
        require(self, "sec", round(self.fps * self.sec) >= 1, "long enough for a frame")
        require(self, "output", self.output.endswith(".mp4"), "a file that ends with .mp4")
        if not self.text:
            raise UserError("there is nothing to show; give --text")


@dataclass
class SampleFirstConfig(Settings):
    """A video by the first release."""

    network: Network = field(default_factory=Network)
    video: SampleFirst = field(default_factory=SampleFirst)
    runtime: Runtime = field(default_factory=Runtime)

    aliases: ClassVar[dict[str, str]] = SHORT
    accepted_but_unused: ClassVar[dict[str, str]] = {}


@dataclass
class TrainFirst:
    """Data, length and optimizer of a training."""

    dataset: list[FilePath] | None = None
    """captions files: .json or .jsonl with file and captions, a table (.csv) with video and caption, or folders that
    scripts/data/preprocess_data.py made"""
    video_dir: FilePath | None = None
    """folder of the videos"""
    height: int = 320
    """of all videos, in pixels; they are resized and cropped"""
    width: int = 480
    """of all videos, in pixels"""
    num_frames: int = 16
    """of all videos"""
    frame_interval: int = 1
    """take every n-th frame"""
    epochs: int = 10
    """passes over the data"""
    train_steps: int = -1
    """updates; more than 0 replaces epochs"""
    batch_size: int = 4
    """videos per device"""
    accumulation_steps: int = 1
    """batches per update"""
    grad_checkpoint: bool = False
    """recompute blocks in the backward pass: less memory, more time"""
    lr: float = 1e-4
    """learning rate, which falls to 0 as a cosine"""
    save_interval: int = 20
    """updates between checkpoints"""
    checkpoint_dir: FilePath = "checkpoints"
    """folder of the run"""
    load_model: FilePath | None = None
    """weights to start from"""
    resume: bool | FilePath = False
    """go on with the run in checkpoint_dir, its optimizer and its place in the data too"""
    ema_decay: float = 0.9999
    """decay of the average of the weights"""
    sp_size: int = 1
    """devices that share a video"""
    num_parallel_workers: int = 4
    """loader processes; 0: load in the training process"""

    def check(self) -> None:
        require_at_least(self, height=1, width=1, num_frames=1, frame_interval=1, epochs=1, batch_size=1)
        require_at_least(self, accumulation_steps=1, lr=0, save_interval=1, num_parallel_workers=0)
        require(self, "sp_size", self.sp_size == 1, "1: devices cannot share a video of the first release")
        for name in ("dataset", "video_dir"):
            if not getattr(self, name):
                raise UserError(f"{name} is not set; give --dataset CAPTIONS.json --video_dir VIDEOS")


@dataclass
class TrainFirstConfig(Settings):
    """Training the first release."""

    network: Network = field(default_factory=Network)
    training: TrainFirst = field(default_factory=TrainFirst)
    runtime: Runtime = field(default_factory=Runtime)

    aliases: ClassVar[dict[str, str]] = {
        **SHORT,
        "d": "dataset",
        "v": "video_dir",
        "e": "epochs",
        "b": "batch_size",
        "g": "grad_checkpoint",
        "a": "accumulation_steps",
    }
    accepted_but_unused: ClassVar[dict[str, str]] = {
        "sp_mode": "devices cannot share a video of the first release",
        "sp_overlap": "devices cannot share a video of the first release",
        "tensorboard_dir": "curves are in the folder of the run",
        "load_optimizer": "resume goes on with a run, its optimizer too",
    }
