"""Settings of ``infer_t5.py``, ``infer_vae.py`` and ``infer_vae_decode.py``: the caches of text and video."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mindone.config import FilePath, Settings, require_at_least
from mindone.errors import UserError
from opensora.config.common import (
    UNUSED_EVERYWHERE,
    Autoencoder,
    Device,
    ModelVersion,
    SaveFormat,
    Shape,
    Text,
    VideoBackend,
)

UNUSED = {
    **UNUSED_EVERYWHERE,
    "max_image_size": "image_size says the area, with resize_by_max_value",
    "use_recompute": "there is no backward pass here",
    "seed": "nothing is random here",
}


@dataclass
class Version:
    """Which model the files are for."""

    model_version: ModelVersion = "v1.2"
    """which Open-Sora it is"""


@dataclass
class Captions:
    """What is encoded."""

    csv_path: FilePath | None = None
    """table with the columns video and caption; a cache file is named after its video"""
    prompt_path: FilePath | None = None
    """file of prompts: .csv with a column caption, or text with one prompt per line"""
    captions: list[str] | None = None
    """prompts, one or more"""
    video_column: str = "video"
    """column of the video paths"""
    caption_column: str = "caption"
    """column of the captions"""
    caption_cleaning: Literal["basic", "full", "none"] = "basic"
    """how captions are cleaned: basic (lower case, HTML entities resolved), full (as published for 1.0 to 1.2: links,
    file names, odd punctuation and Chinese characters go too) or none"""
    filter_data: bool = False
    """leave out rows of the table without a caption: empty, or a word such as NaN"""
    batch_size: int = 8
    """captions that are encoded at once"""

    def check(self) -> None:
        require_at_least(self, batch_size=1)
        if not (self.csv_path or self.prompt_path or self.captions):
            raise UserError("there is nothing to encode; give --csv_path TABLE.csv, --prompt_path FILE or --captions")


@dataclass
class Cache:
    """Where the cache goes."""

    output_path: FilePath | None = None
    """folder of the cache"""
    allow_overwrite: bool = False
    """make files anew that are there already"""
    stale: Literal["error", "renew"] = "error"
    """what to do with files that were made from another text or video, or with other settings or weights: stop, or
    make them anew"""

    def check(self) -> None:
        if not self.output_path:
            raise UserError("output_path is not set; give the folder of the cache as --output_path FOLDER")


@dataclass
class EmbedTextConfig(Settings):
    """Text embeddings of a table's captions, or of prompts, one .npz each."""

    data: Captions = field(default_factory=Captions)
    cache: Cache = field(default_factory=Cache)
    model: Version = field(default_factory=Version)
    text: Text = field(default_factory=Text)
    runtime: Device = field(default_factory=Device)

    aliases: ClassVar[dict[str, str]] = {"prompt": "captions", "dtype": "t5_dtype"}
    accepted_but_unused: ClassVar[dict[str, str]] = UNUSED


@dataclass
class Videos:
    """The videos that are encoded."""

    csv_path: FilePath | None = None
    """table with a column of video paths"""
    video_folder: FilePath | None = None
    """folder that the paths of the table start from"""
    video_column: str = "video"
    """column of the video paths"""
    filter_data: bool = False
    """leave out rows whose files are missing, before encoding"""
    video_backend: VideoBackend = "pyav"
    """who decodes the videos"""
    frame_stride: int = 1
    """take every n-th frame of a video"""
    resize_by_max_value: bool = False
    """shrink videos to the area of image_size, each in its own aspect ratio, for training with pre_patchify (1.1)"""
    batch_size: int = 1
    """videos of equal length that are encoded at once"""
    num_parallel_workers: int = 2
    """loader processes; 0: load in the encoding process"""
    max_bad_fraction: float = 0.1
    """stop when more than this share of the videos cannot be read"""

    def check(self) -> None:
        require_at_least(self, frame_stride=1, batch_size=1, num_parallel_workers=0, max_bad_fraction=0)
        for name in ("csv_path", "video_folder"):
            if not getattr(self, name):
                raise UserError(f"{name} is not set; give it as --{name} PATH")


@dataclass
class EmbedShape(Shape):
    """Size of the encoded videos: image_size, or resolution with aspect_ratio."""

    num_frames: int | str | None = None
    """frames that are encoded, from the start of a video; all if not given"""

    def check(self) -> None:
        super().check()
        if not self.is_fixed:
            raise UserError("the videos have no size; give image_size (height width), or resolution and aspect_ratio")


@dataclass
class LatentCache(Cache):
    """Where the cache goes, and what it holds."""

    save_distribution: bool = True
    """save the standard deviation too, so that training can draw from the distribution"""
    condition_kinds: list[str] | None = None
    """kinds of conditions (2.0: i2v_head, i2v_loop, v2v_head...) whose given frames are encoded by themselves and saved
    too, for training with condition_config"""


@dataclass
class EmbedVideoConfig(Settings):
    """Latents of the videos of a table: mean and standard deviation, one .npz per video."""

    data: Videos = field(default_factory=Videos)
    shape: EmbedShape = field(default_factory=EmbedShape)
    cache: LatentCache = field(default_factory=LatentCache)
    model: Version = field(default_factory=Version)
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    runtime: Device = field(default_factory=Device)

    aliases: ClassVar[dict[str, str]] = {"dtype": "vae_dtype"}
    accepted_but_unused: ClassVar[dict[str, str]] = {
        **UNUSED,
        "caption_column": "latents need no captions",
        "dl_return_all_frames": "all frames are encoded unless num_frames limits them",
        "transform_name": "videos are resized to cover the size and cropped in the centre",
    }


@dataclass
class Latents:
    """Latents in files, and the videos made of them."""

    latent_folder: FilePath | list[FilePath] | None = None
    """folder of .npy or .npz latents, or several"""
    num_frames: int | str | None = None
    """frames of the videos; as many as the latents hold if not given"""
    output_path: FilePath = "samples/decoded"
    """folder for the videos"""
    save_format: SaveFormat = "mp4"
    """mp4, gif, or png (one file per frame)"""
    fps: int = 24
    """frames per second of the videos"""

    def check(self) -> None:
        require_at_least(self, fps=1)
        if not self.latent_folder:
            raise UserError("latent_folder is not set; give the folder of the latents as --latent_folder FOLDER")


@dataclass
class DecodeConfig(Settings):
    """Videos from latents that inference.py --save_latent or infer_vae.py wrote."""

    latents: Latents = field(default_factory=Latents)
    model: Version = field(default_factory=Version)
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    runtime: Device = field(default_factory=Device)

    aliases: ClassVar[dict[str, str]] = {"dtype": "vae_dtype"}
    accepted_but_unused: ClassVar[dict[str, str]] = {**UNUSED, "use_fp16": "dtype says it"}
