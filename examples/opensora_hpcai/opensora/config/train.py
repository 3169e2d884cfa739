"""Settings of ``train.py``: training a denoiser."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from mindone.config import FilePath, SettingError, Settings, require, require_at_least
from mindone.errors import UserError
from mindone.train.schedule import SchedulerName
from opensora.conditions.visual import KINDS as CONDITION_KINDS
from opensora.config.common import (
    UNUSED_EVERYWHERE,
    Autoencoder,
    Dtype,
    ModelVersion,
    Runtime,
    Shape,
    Text,
    VideoBackend,
    require_span_at_least,
)

logger = logging.getLogger(__name__)

AdamWName = Literal["adamw", "adamw_re", "adamw_exp", "adamw_bf16", "adamw_mint"]
Optimizer = Literal[AdamWName, "adam", "sgd", "momentum", "came", "lion"]


@dataclass
class Data:
    """Videos, captions and their caches."""

    csv_path: FilePath | None = None
    """table of the samples, with the columns video and caption"""
    video_folder: FilePath | None = None
    """folder that the paths of the table start from"""
    text_embed_folder: FilePath | None = None
    """text embeddings of infer_t5.py, one .npz per video"""
    vae_latent_folder: FilePath | None = None
    """latents of infer_vae.py, one .npz per video, which replace the videos"""
    video_column: str = "video"
    """column of the video paths"""
    caption_column: str = "caption"
    """column of the captions"""
    filter_data: bool = False
    """leave out rows without a caption or whose files are missing, before training"""
    video_backend: VideoBackend = "pyav"
    """who decodes the videos"""
    frame_stride: int = 1
    """take every n-th frame of a video"""
    disable_flip: bool = True
    """False: mirror half of the videos (not with caches)"""
    num_parallel_workers: int = 4
    """loader processes; 0: load in the training process"""
    prefetch_size: int = 2
    """batches that each loader process prepares ahead"""
    max_bad_fraction: float = 0.1
    """stop when more than this share of the samples cannot be read"""
    sample_timeout: float = 300.0
    """seconds after which a sample that is still being read counts as one that cannot be read; 0: wait for ever"""

    def check(self) -> None:
        require_at_least(self, frame_stride=1, num_parallel_workers=0, prefetch_size=1, max_bad_fraction=0)
        require_at_least(self, sample_timeout=0)
        if self.max_bad_fraction > 1:
            raise UserError(f"max_bad_fraction={self.max_bad_fraction} has to be between 0 and 1")


@dataclass
class TrainShape(Shape):
    """Size and length of the training videos: fixed, or by buckets."""

    num_frames: int | str = 16
    """frames, as a number or a length: 2s (51 frames), 4s, 8s, 16s, 32s, or 1x (51), 2x, 4x, 8x, 16x"""
    bucket_config: dict[str, dict[int, Any]] | None = None
    """resolution -> frames -> [probability, batch size per rank]; ignored if a fixed size is given. A resolution is a
    published name, or 64x96 for just that size"""
    fps_max: float | None = None
    """with bucket_config: take every other frame, or fewer, of videos with more frames per second (2.0)"""

    def check(self) -> None:
        super().check()
        if self.fps_max is None:
            return
        if not self.fps_max > 0:
            raise SettingError(f"fps_max={self.fps_max} has to be more than 0", "fps_max")
        if self.is_fixed or not self.bucket_config:
            raise SettingError("fps_max belongs to bucket_config; use frame_stride with a fixed size", "fps_max")


@dataclass
class Denoiser:
    """The denoiser and what it starts from."""

    model_version: ModelVersion = "v1.2"
    """which Open-Sora it is"""
    model_name: str | None = None
    """size preset of the network, such as STDiT3-XL/2; the model version's own if not given"""
    denoiser: dict[str, Any] = field(default_factory=dict)
    """settings of the network that replace those of the preset, such as {hidden_size: 384, depth: 12}"""
    pretrained_model_path: FilePath | None = None
    """folder or file of the weights to start from; random ones if not given"""
    space_scale: float | None = None
    """positions within a frame are divided by it (1.0: 0.5 for 256 pixels, 1 for 512); the model's own if not given"""
    time_scale: float | None = None
    """positions of frames are divided by it (1.0: 1 for 16 frames, 2/3 for 64); the model's own if not given"""
    freeze_y_embedder: bool = False
    """do not train the caption projection"""
    dtype: Dtype = "fp32"
    """precision of matrix products; bf16 runs in float32 on a CPU"""
    use_recompute: bool = False
    """recompute blocks in the backward pass: less memory, more time"""
    num_recompute_blocks: int | None = None
    """how many blocks are recomputed; all if not given"""
    pre_patchify: bool = False
    """videos of any shape as rows of patches of one length (FiT, 1.1): one graph, and nothing is cropped"""
    max_image_size: int | None = None
    """with pre_patchify, the side in pixels of the square frame that such a row has room for; image_size if not given.
    Larger frames are shrunk to its area"""

    def check(self) -> None:
        require_at_least(self, num_recompute_blocks=0, max_image_size=16)
        if self.max_image_size and not self.pre_patchify:
            raise SettingError("max_image_size belongs to pre_patchify; give image_size", "max_image_size")


@dataclass
class Lora:
    """A low-rank adapter, which is trained instead of the denoiser."""

    lora_rank: int = 0
    """rank of the adapter; 0: the denoiser itself is trained"""
    lora_alpha: float | None = None
    """the adapter's part is multiplied by alpha / rank; the rank if not given"""
    lora_target: list[str] = field(default_factory=lambda: ["*blocks.*"])
    """which linears: ends of their paths (proj, img_attn.q_proj) or patterns of whole paths (*blocks.*)"""
    lora_dropout: float = 0.0
    """share of the adapter's input that is left out at random"""
    use_rslora: bool = False
    """multiply by alpha / sqrt(rank) instead"""
    lora_checkpoint: FilePath | None = None
    """an earlier adapter to start from, of the same rank, alpha and targets"""

    def check(self) -> None:
        require_at_least(self, lora_rank=0)
        require(self, "lora_dropout", 0 <= self.lora_dropout < 1, "at least 0 and less than 1")
        if self.lora_checkpoint and not self.lora_rank:
            raise SettingError(
                "lora_checkpoint is an adapter to start from; give its --lora_rank too", "lora_checkpoint"
            )
        for target in self.lora_target:
            require(self, "lora_target", bool(target), "ends of paths or patterns, none of them empty")


@dataclass
class Flow:
    """Noise, timesteps and masks of training."""

    noise_scheduler: Literal["rflow", "ddpm"] | None = None
    """rectified flow (1.2) or IDDPM (1.0, 1.1); the model version's own if not given"""
    sample_method: Literal["uniform", "discrete-uniform", "logit-normal", "speed"] = "uniform"
    """distribution of the training timesteps; speed (1.0, 1.1): less often where the noise hardly changes"""
    use_timestep_transform: bool | None = None
    """move timesteps towards noise for large or long videos; the model version's own (1.2: True) if not given"""
    snr_range: tuple[float, float] | None = None
    """a network of 1.0 or 1.1 that predicts x_0: its errors count their signal-to-noise ratio within these limits"""
    mask_ratios: dict[str, float] | None = None
    """share of samples per kind of frames that are given instead of generated; identity: none given"""
    condition_config: dict[str, float] | None = None
    """weights of the kinds of given pictures and clips that the network is told (2.0), such as {t2v: 1, i2v_head: 5}"""

    def check(self) -> None:
        for kind, weight in (self.condition_config or {}).items():
            if kind not in CONDITION_KINDS:
                raise SettingError(
                    f"condition_config has no kind {kind}; use {', '.join(CONDITION_KINDS)}", f"condition_config.{kind}"
                )
            if not weight > 0:
                raise SettingError(
                    f"condition_config.{kind}={weight} has to be more than 0", f"condition_config.{kind}"
                )


@dataclass
class Optim:
    """Optimizer, learning rate, gradients."""

    optim: Optimizer = "adamw"
    """optimizer; the adamw names all mean the same AdamW"""
    betas: tuple[float, float] = (0.9, 0.999)
    """decay of the first and second moment; momentum has the first one, and lion is published with 0.9 0.99"""
    optim_eps: float = 1e-8
    """added to the root of the second moment (adam, adamw)"""
    weight_decay: float = 1e-6
    """decoupled weight decay; of adam, sgd and momentum it is added to the gradient"""
    group_strategy: Literal["norm_and_bias", "unclip", "not_grouping"] | None = None
    """which parameters have no weight decay: norms and biases, or (unclip) all vectors; none if not given"""
    nesterov: bool = False
    """momentum looks one step ahead"""
    instability_beta: float = 0.9999
    """decay of what came distrusts its updates for"""
    clip_threshold: float = 1.0
    """largest root mean square of an update of came"""
    start_learning_rate: float = 1e-5
    """learning rate after the warm-up"""
    end_learning_rate: float = 1e-7
    """learning rate after the decay"""
    initial_learning_rate: float = 0.0
    """learning rate that the warm-up of linear_warmup begins at (2.0: 1e-6)"""
    warmup_steps: int | str = 1000
    """updates of linear warm-up; this and other intervals may also be epochs (2 epochs) or a part of the run (10%)"""
    decay_steps: int | str = 0
    """updates of decay; 0: all after the warm-up"""
    scheduler: SchedulerName = "cosine_decay"
    """course of the learning rate after the warm-up"""
    gradient_accumulation_steps: int = 1
    """batches per update"""
    clip_grad: bool = False
    """clip the global norm of the gradients"""
    max_grad_norm: float = 1.0
    """norm that gradients are clipped to"""
    use_ema: bool = False
    """keep an average of the weights, for sampling"""
    ema_decay: float = 0.9999
    """decay of the average"""
    loss_scaler_type: Literal["dynamic", "static"] = "dynamic"
    """loss scale of fp16 training"""
    init_loss_scale: float = 65536.0
    """first loss scale"""
    loss_scale_factor: float = 2.0
    """what a dynamic loss scale is multiplied or divided by"""
    scale_window: int = 2000
    """updates without overflow before a dynamic loss scale grows"""
    drop_overflow_update: bool = True
    """leave out an update whose gradients are not finite"""
    max_loss_factor: float = 0.0
    """leave out an update whose loss is more than so many times the running mean, after 100 updates; 0: never"""
    max_skipped_updates: int = 20
    """stop when so many updates in a row are left out; 0: never"""

    def check(self) -> None:
        require_at_least(self, weight_decay=0, gradient_accumulation_steps=1, initial_learning_rate=0)
        require_span_at_least(self, warmup_steps=0, decay_steps=0)
        require_at_least(self, max_skipped_updates=0)
        factor = self.max_loss_factor
        require(self, "max_loss_factor", factor == 0 or factor > 1, "more than 1, or 0")
        require_at_least(self, start_learning_rate=0, end_learning_rate=0, optim_eps=0, scale_window=1)
        for name in ("max_grad_norm", "init_loss_scale", "loss_scale_factor", "clip_threshold"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} has to be larger than 0")
        decays = {"ema_decay": self.ema_decay, "instability_beta": self.instability_beta}
        for name, value in (*decays.items(), *(("betas", beta) for beta in self.betas)):
            if not 0 <= value < 1:
                raise UserError(f"{name}={value} has to be at least 0 and less than 1")


@dataclass
class Loop:
    """Length, checkpoints, logs."""

    batch_size: int = 10
    """samples per rank and batch; buckets have their own"""
    epochs: int = 10
    """passes over the data, if train_steps does not say how long; each counts as many batches as the first one has"""
    train_steps: int = -1
    """updates; more than 0 replaces epochs"""
    ckpt_save_interval: int = 1
    """epochs between checkpoints, if ckpt_save_steps is not given"""
    ckpt_save_steps: int | str = -1
    """updates between checkpoints; more than 0 replaces ckpt_save_interval"""
    ckpt_max_keep: int = 10
    """how many checkpoints are kept"""
    ckpt_keep_every: int | str = 0
    """checkpoints of updates that are a multiple of this are kept as well; 0: none"""
    log_interval: int | str = 1
    """updates between log lines"""
    resume: bool | FilePath = False
    """True: go on with the newest run under output_path; auto: the same, or begin one if there is none; or the folder
    of a run, or of one of its checkpoints"""
    allow_changes: bool = False
    """go on although settings or data that change the numbers are not those of the run so far"""
    output_path: FilePath = "output/"
    """folder of the runs"""
    add_datetime: bool = True
    """put the run into a subfolder named by date and time"""
    overwrite: bool = False
    """begin anew in a folder that has a run already"""

    def check(self) -> None:
        require_at_least(self, batch_size=1, epochs=1, ckpt_save_interval=1, ckpt_max_keep=1)
        require_span_at_least(self, ckpt_keep_every=0, log_interval=1, ckpt_save_steps=-1)
        if self.resume and self.overwrite:
            raise UserError("resume goes on with a run and overwrite begins anew; set one of them")


@dataclass
class Samples:
    """Videos that are sampled during training."""

    sample_every: int | str = 0
    """updates between samplings; 0: never"""
    sample_prompts: list[str] | None = None
    """what is sampled; captions of the training data if not given"""

    def check(self) -> None:
        require_span_at_least(self, sample_every=0)


@dataclass
class Parallel:
    """How ranks share the work beyond taking different samples."""

    parallel_mode: Literal["data", "optim"] = "data"
    """data: every rank has all of the optimizer; optim: each has a slice, as with zero_stage 1"""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """what ranks have slices of: the optimizer's states and averages (1), gradients too (2), weights too (3)"""
    enable_sequence_parallelism: bool = False
    """share one video between ranks by tokens"""
    sequence_parallel_shards: int | None = None
    """ranks that share one video, all of them if not given"""
    sequence_parallel_method: Literal["auto", "ulysses", "ring"] = "auto"
    """how they share it by tokens: by heads in each attention (ulysses), or keys and values go round (ring; version
    2.0); auto: ring where 2.0 has fewer heads than ranks"""
    dsp: bool = False
    """share one video between ranks by frames and tokens in turn"""

    @property
    def stage(self) -> int:
        """What is in slices, by either setting."""
        return max(self.zero_stage, int(self.parallel_mode == "optim"))

    def check(self) -> None:
        if self.sequence_parallel_shards is not None:
            require_at_least(self, sequence_parallel_shards=1)


@dataclass
class Validation:
    """Loss on held-out videos."""

    validate: bool = False
    """compute the loss on the validation videos, which are not trained on, every val_interval and at the end"""
    val_interval: int | str = 1
    """epochs between validations, or a length of time such as 500 steps or 10%"""
    num_eval_timesteps: int = 10
    """equidistant timesteps of the validation loss"""
    val_csv_path: FilePath | None = None
    """table of the validation videos"""
    val_video_folder: FilePath | None = None
    """folder of the validation videos"""
    val_text_embed_folder: FilePath | None = None
    """their text embeddings"""
    val_vae_latent_folder: FilePath | None = None
    """their latents"""
    val_batch_size: int = 1
    """samples per validation batch"""
    val_bucket_config: dict[str, dict[int, Any]] | None = None
    """buckets of the validation videos; those of training if not given"""

    def check(self) -> None:
        require_at_least(self, num_eval_timesteps=1, val_batch_size=1)
        require_span_at_least(self, val_interval=1)
        if not self.validate:
            return
        if not self.val_csv_path:
            raise SettingError("validate needs a table; give it as --val_csv_path FILE.csv", "val_csv_path")
        if not self.val_video_folder and not self.val_vae_latent_folder:
            raise SettingError(
                "validate needs videos; give --val_video_folder, or --val_vae_latent_folder with cached latents",
                "val_video_folder",
            )


@dataclass
class TrainRuntime(Runtime):
    """Device, mode, ranks and seed."""

    seed: int | None = 3407
    """seed of all random numbers"""
    profile: bool = False
    """profile the third to fifth update of a run into its folder, as a trace that Perfetto shows"""


TRAINING_UNUSED = {
    **UNUSED_EVERYWHERE,
    "log_level": "screen and log file show the same lines, of level INFO and above",
    "dataset_name": "the table says what the data set is",
    "dataset_sink_mode": "the training loop has no sink mode",
    "sink_size": "the training loop has no sink mode",
    "step_mode": "train_steps and ckpt_save_steps count updates, epochs and ckpt_save_interval passes over the data",
    "custom_train": "there is one training loop",
    "num_workers_dataset": "num_parallel_workers sets the loader processes",
    "num_workers_batch": "num_parallel_workers sets the loader processes",
    "data_multiprocessing": "num_parallel_workers sets the loader processes, 0 for none",
    "max_rowsize": "samples are handed over without a size limit",
}


@dataclass
class TrainConfig(Settings):
    """Training a denoiser on videos and captions, or on their caches."""

    data: Data = field(default_factory=Data)
    shape: TrainShape = field(default_factory=TrainShape)
    model: Denoiser = field(default_factory=Denoiser)
    lora: Lora = field(default_factory=Lora)
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    text: Text = field(default_factory=Text)
    flow: Flow = field(default_factory=Flow)
    optimizer: Optim = field(default_factory=Optim)
    train: Loop = field(default_factory=Loop)
    samples: Samples = field(default_factory=Samples)
    parallel: Parallel = field(default_factory=Parallel)
    validation: Validation = field(default_factory=Validation)
    runtime: TrainRuntime = field(default_factory=TrainRuntime)

    aliases: ClassVar[dict[str, str]] = {"ckpt_path": "pretrained_model_path", "load": "resume"}
    accepted_but_unused: ClassVar[dict[str, str]] = TRAINING_UNUSED

    def check(self) -> None:
        if not self.data.csv_path:
            raise UserError("csv_path is not set; give the table of the training videos as --csv_path FILE.csv")
        if not self.data.video_folder and not self.data.vae_latent_folder:
            raise UserError("video_folder is not set; give --video_folder, or --vae_latent_folder with cached latents")
        if self.lora.lora_rank and not self.model.pretrained_model_path:
            raise SettingError(
                "lora_rank adapts weights that are there; give them as --pretrained_model_path", "lora_rank"
            )
        if self.lora.lora_dropout and (self.parallel.enable_sequence_parallelism or self.parallel.dsp):
            raise SettingError("lora_dropout draws by tokens, which ranks share; set it to 0", "lora_dropout")
        if not self.shape.is_fixed and not self.shape.bucket_config:
            raise UserError(
                "the videos have no size; give image_size (height width), or resolution and aspect_ratio, or "
                "bucket_config"
            )
        if self.model.pre_patchify and not self.shape.is_fixed:
            raise SettingError(
                "pre_patchify has sizes of its own; give image_size, the side of the largest square", "pre_patchify"
            )
        if self.shape.is_fixed and self.shape.bucket_config:
            logger.warning("bucket_config has no effect: a fixed size is given")
