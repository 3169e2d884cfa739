"""Settings of ``train_vae.py`` and ``inference_vae.py``: training and judging an autoencoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from mindone.config import FilePath, SettingError, Settings, require_at_least
from mindone.errors import UserError
from opensora.config.common import UNUSED_EVERYWHERE, Autoencoder, Device, Dtype, VaeType, VideoBackend
from opensora.config.train import TRAINING_UNUSED, Loop, Optim, Optimizer, Parallel, TrainRuntime

Mixed = Literal["mixed_video_image", "mixed_video_random", "image_only"]


@dataclass
class VaeData:
    """Videos, and how they are cut and cropped."""

    csv_path: FilePath | None = None
    """table with a column of video paths"""
    video_folder: FilePath | None = None
    """folder that the paths of the table start from"""
    video_column: str = "video"
    """column of the video paths; the first column if there is none of that name"""
    filter_data: bool = False
    """leave out rows whose files are missing, before training"""
    video_backend: VideoBackend = "pyav"
    """who decodes the videos"""
    image_size: int = 256
    """height and width in pixels"""
    num_frames: int = 17
    """frames of a clip"""
    frame_stride: int = 3
    """take every n-th frame of a video"""
    random_crop: bool = False
    """crop anywhere instead of in the centre"""
    flip: bool = False
    """mirror half of the clips"""
    mixed_strategy: Mixed | None = None
    """mix in images (mixed_video_image), shorter clips (mixed_video_random), or take images only"""
    mixed_image_ratio: float = 0.0
    """share of batches that are images or shorter clips"""
    num_parallel_workers: int = 4
    """loader processes; 0: load in the training process"""
    prefetch_size: int = 2
    """batches that each loader process prepares ahead"""
    max_bad_fraction: float = 0.1
    """stop when more than this share of the videos cannot be read"""
    sample_timeout: float = 300.0
    """seconds after which a video that is still being read counts as one that cannot be read; 0: wait for ever"""
    held_out: int = 0
    """last rows of the table that are not trained on; the result is judged on them"""

    def check(self) -> None:
        require_at_least(self, image_size=8, num_frames=1, frame_stride=1, num_parallel_workers=0, prefetch_size=1)
        require_at_least(self, held_out=0, sample_timeout=0)
        for name in ("mixed_image_ratio", "max_bad_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} has to be between 0 and 1")
        for name in ("csv_path", "video_folder"):
            if not getattr(self, name):
                raise UserError(f"{name} is not set; give it as --{name} PATH")


OF_TWO_PARTS = "OpenSora-VAE-v1.2"
_NETWORKS = {"OpenSoraVAE_V1_2": OF_TWO_PARTS, "VideoAutoencoderKL": "SD-VAE"}


@dataclass
class VaeModel:
    """The autoencoder and what it starts from."""

    model_type: VaeType = OF_TWO_PARTS
    """which autoencoder it is; OpenSoraVAE_V1_2 is the same as OpenSora-VAE-v1.2, which has a 2D and a temporal part"""
    vae: dict[str, Any] = field(default_factory=dict)
    """settings of the network that replace the published ones"""
    pretrained_model_path: FilePath | None = None
    """folder or file of the weights to start from; random ones if not given"""
    vae2d_checkpoint: FilePath | None = None
    """folder or file of an image autoencoder that the 2D part, or every frame of Hunyuan-VAE, starts from"""
    freeze_vae_2d: bool = True
    """train the temporal part only"""
    vae_2d_only: bool = False
    """train the 2D part only, frame by frame"""
    freeze_encoder: bool = False
    """train the decoder only: latents stay what they are, and so does what was trained on them"""
    latent_statistics: int = 0
    """after training, set shift and scale from the latents of this many clips; 0: leave them"""
    micro_batch_size: int | None = 4
    """frames that go through the 2D part at once; 0: all"""
    micro_frame_size: int | None = 17
    """frames that go through the temporal part at once; 0: all"""
    dtype: Dtype = "fp32"
    """precision of matrix products; bf16 runs in float32 on a CPU"""
    use_recompute: bool = False
    """recompute blocks in the backward pass: less memory, more time"""

    def check(self) -> None:
        require_at_least(self, micro_batch_size=0, micro_frame_size=0, latent_statistics=0)
        if self.vae_2d_only and self.freeze_vae_2d:
            raise UserError("vae_2d_only trains what freeze_vae_2d freezes; set one of them to False")
        if self.freeze_encoder and self.latent_statistics:
            raise UserError("latent_statistics changes the latents that freeze_encoder keeps; set one of the two")

    @property
    def network(self) -> str:
        """Its name in `opensora.networks.AUTOENCODERS`."""
        return _NETWORKS.get(self.model_type, self.model_type)

    @property
    def has_two_parts(self) -> bool:
        """Whether it is an image autoencoder and a temporal one."""
        return self.network == OF_TWO_PARTS


@dataclass
class VaeLoss:
    """What the autoencoder is trained for."""

    perceptual_loss_weight: float = 0.1
    """weight of LPIPS in the pixel loss; needs lpips_checkpoint, or 0"""
    lpips_checkpoint: FilePath | None = None
    """folder or file of the weights of LPIPS and its network"""
    lpips_net: Literal["vgg", "alex"] = "vgg"
    """network of LPIPS: VGG-16, as published, or AlexNet, which is smaller"""
    lpips_random: bool = False
    """without weights, the same network with random ones: another scale, for trying out"""
    mse_loss_weight: float = 0.0
    """weight of the mean squared error, beside the mean absolute error"""
    kl_loss_weight: float = 1e-6
    """weight of the distance between posterior and standard normal"""
    use_real_rec_loss: bool = False
    """reconstruct pixels"""
    use_z_rec_loss: bool = False
    """reconstruct the latents of the 2D part"""
    use_image_identity_loss: bool = False
    """an image's latents shall pass the temporal part unchanged"""
    use_discriminator: bool = False
    """adversarial loss: a discriminator learns to tell reconstructions from videos, the autoencoder to deceive it"""
    discriminator: dict[str, Any] = field(default_factory=dict)
    """its kind (2d, 3d, 3d_v1_3, 3d_v2_0, blurred) and size (channels, layers, dropout); that of 2.0 if not given"""
    discriminator_loss_type: Literal["hinge", "vanilla", "non-saturating", "wgan-gp"] = "hinge"
    """what the discriminator is trained for"""
    generator_loss_type: Literal["hinge", "non-saturating"] = "hinge"
    """what the autoencoder is trained for against it"""
    generator_factor: float = 0.05
    """share of the weight at which both losses pull equally at the autoencoder's last layer (1.3: 0.5)"""
    discriminator_start: int = 0
    """updates before the discriminator takes part"""
    discriminator_learning_rate: float = 1e-4
    """of the discriminator, all the time"""
    lecam_loss_weight: float = 0.0
    """hold logits to their averages (LeCam)"""
    gradient_penalty_loss_weight: float = 0.0
    """hold the slope of the logits to 1 (gradient penalty, times 10)"""

    def check(self) -> None:
        require_at_least(self, perceptual_loss_weight=0, mse_loss_weight=0, kl_loss_weight=0, discriminator_start=0)
        require_at_least(self, generator_factor=0, lecam_loss_weight=0, gradient_penalty_loss_weight=0)
        require_at_least(self, discriminator_learning_rate=0)
        if self.use_discriminator and not self.use_real_rec_loss:
            raise SettingError("use_discriminator judges pixels; set use_real_rec_loss", "use_discriminator")
        if self.discriminator and not self.use_discriminator:
            raise SettingError("discriminator belongs to use_discriminator; set it, or leave this out", "discriminator")


@dataclass
class VaeOptim(Optim):
    """Optimizer, learning rate, gradients."""

    optim: Optimizer = "adamw_re"
    """optimizer; the adamw names all mean the same AdamW"""
    weight_decay: float = 0.0
    """decoupled weight decay; of adam, sgd and momentum it is added to the gradient"""
    scale_lr: bool = False
    """multiply the learning rate by the number of samples per update"""


@dataclass
class TrainVaeConfig(Settings):
    """Training an autoencoder on videos."""

    data: VaeData = field(default_factory=VaeData)
    model: VaeModel = field(default_factory=VaeModel)
    loss: VaeLoss = field(default_factory=VaeLoss)
    optimizer: VaeOptim = field(default_factory=VaeOptim)
    train: Loop = field(default_factory=Loop)
    parallel: Parallel = field(default_factory=Parallel)
    runtime: TrainRuntime = field(default_factory=TrainRuntime)

    aliases: ClassVar[dict[str, str]] = {
        "vae_checkpoint": "pretrained_model_path",
        "vae_type": "model_type",
        "vae_micro_batch_size": "micro_batch_size",
        "vae_micro_frame_size": "micro_frame_size",
        "vae_dtype": "dtype",
    }
    accepted_but_unused: ClassVar[dict[str, str]] = {
        **TRAINING_UNUSED,
        "caption_column": "an autoencoder needs no captions",
        "pre_patchify": "an autoencoder has no patches",
        "max_image_size": "an autoencoder has no patches",
        "num_recompute_blocks": "use_recompute is for all blocks",
        "mask_ratios": "an autoencoder sees whole clips",
        "bucket_config": "clips have one size: image_size and num_frames",
        "sd_scale_factor": "an autoencoder is trained on its latents before scale and shift",
    }

    def check(self) -> None:
        if not (self.loss.use_real_rec_loss or self.loss.use_z_rec_loss):
            raise UserError("there is no reconstruction loss; set use_real_rec_loss or use_z_rec_loss")


@dataclass
class VaeJudge:
    """Which clips are reconstructed, and what is written."""

    csv_path: FilePath | None = None
    """table with a column of video paths"""
    video_folder: FilePath | None = None
    """folder that the paths of the table start from"""
    video_column: str = "video"
    """column of the video paths; the first column if there is none of that name"""
    video_backend: VideoBackend = "pyav"
    """who decodes the videos"""
    image_size: int | list[int] = 256
    """height and width in pixels, or one number for a square"""
    num_frames: int | str = 17
    """frames of a clip"""
    frame_stride: int = 1
    """take every n-th frame of a video"""
    output_path: FilePath = "samples/vae_recons"
    """folder for the reconstructions and the scores"""
    eval_loss: bool = False
    """also compute LPIPS; needs lpips_checkpoint"""
    lpips_checkpoint: FilePath | None = None
    """folder or file of the weights of AlexNet and LPIPS"""
    save_vis: bool = True
    """write original and reconstruction side by side"""
    use_temporal_vae: bool = True
    """False: the 2D part alone"""
    encode_only: bool = False
    """save the latents and stop"""

    def check(self) -> None:
        require_at_least(self, frame_stride=1)
        for name in ("csv_path", "video_folder"):
            if not getattr(self, name):
                raise UserError(f"{name} is not set; give it as --{name} PATH")


@dataclass
class EvaluateVaeConfig(Settings):
    """Reconstruction quality of an autoencoder: PSNR, SSIM, LPIPS."""

    data: VaeJudge = field(default_factory=VaeJudge)
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    runtime: Device = field(default_factory=Device)

    aliases: ClassVar[dict[str, str]] = {
        "ckpt_path": "vae_checkpoint",
        "dtype": "vae_dtype",
        "micro_batch_size": "vae_micro_batch_size",
        "micro_frame_size": "vae_micro_frame_size",
    }
    accepted_but_unused: ClassVar[dict[str, str]] = {
        **UNUSED_EVERYWHERE,
        "max_image_size": "an autoencoder has no patches",
        "seed": "nothing is random here",
        "model_config": "the model's config.json says it",
        "expand_dim_t": "an image is a clip of one frame",
        "num_parallel_workers": "clips are read one after the other",
        "batch_size": "clips are reconstructed one after the other",
        "mixed_strategy": "clips have one length: num_frames",
        "mixed_image_ratio": "clips have one length: num_frames",
        "save_z_dist": "infer_vae.py saves mean and standard deviation",
    }

    def check(self) -> None:
        if self.data.eval_loss and not self.data.lpips_checkpoint:
            raise UserError(
                "eval_loss needs the weights of AlexNet and LPIPS; give their file or folder as --lpips_checkpoint, or "
                "leave it out: PSNR and SSIM are always computed"
            )
