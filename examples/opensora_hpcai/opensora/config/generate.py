"""Settings of ``inference.py``: videos from prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from mindone.config import FilePath, FilePaths, SettingError, Settings, require, require_at_least
from mindone.errors import UserError
from opensora.conditions.strategies import TASKS
from opensora.conditions.visual import KINDS
from opensora.config.common import (
    UNUSED_EVERYWHERE,
    Autoencoder,
    Dtype,
    ModelVersion,
    Runtime,
    SaveFormat,
    Shape,
    Text,
)
from opensora.noise import parse_noise
from opensora.text.prompts import CAMERA_MOTIONS


@dataclass
class Prompts:
    """What the videos shall show."""

    captions: list[str] | None = None
    """prompts, one or more"""
    prompt_path: FilePath | None = None
    """file of prompts, which wins over captions: text with one per line, .csv with a column caption, or .jsonl; a
    prompt may have its own reference, mask_strategy, task, negative, seed, size and num_frames"""
    text_embed_folder: FilePaths | None = None
    """prompts that infer_t5.py has encoded already; no text encoder is needed then. Embeddings of
    scripts/v2.0/text_embedding.py: the folders of T5 and of CLIP, as in t5;clip"""
    negative_prompts: list[str] | None = None
    """what the videos shall not show: one for all prompts, or one per prompt"""
    negative_embed_folder: FilePaths | None = None
    """negative prompts that are encoded already in one of these ways, one for all or one per prompt"""
    caption_cleaning: Literal["basic", "full", "none"] = "basic"
    """how prompts are cleaned: basic (lower case, HTML entities resolved), full (as published for 1.0) or none"""
    aesthetic_score: float | None = None
    """added to prompts as 'aesthetic score: 6.5.'; Open-Sora 1.2 knows about 4 to 7"""
    motion_score: float | None = None
    """added to prompts as 'motion score: 10.0.'"""
    prompt_suffix: bool = True
    """2.0 adds ' 24 FPS. 4 motion score.' to prompts, as the published weights know them; False leaves them as they
    are, for weights that were trained on captions without it"""
    camera_motion: Literal[CAMERA_MOTIONS] | None = None
    """added to prompts as 'camera motion: pan left.'"""
    extend_prompts: bool = False
    """let a language model write longer prompts (endpoint, model); a key is taken from OPENAI_API_KEY"""
    endpoint: str | None = None
    """base address of an OpenAI-compatible service, such as http://127.0.0.1:8000/v1"""
    model: str | None = None
    """name of the language model there"""

    def check(self) -> None:
        for name in ("endpoint", "model") if self.extend_prompts else ():
            if not getattr(self, name):
                raise SettingError(f"extend_prompts needs --{name}", "extend_prompts")
        if self.extend_prompts and self.text_embed_folder:
            raise SettingError(
                "prompts of text_embed_folder are encoded already; leave out extend_prompts", "extend_prompts"
            )


@dataclass
class Denoiser:
    """The denoiser."""

    model_version: ModelVersion = "v1.2"
    """which Open-Sora it is"""
    model_name: str | None = None
    """size preset of the network, such as Flux.1-dev; the model version's own if not given"""
    denoiser_config: dict[str, Any] = field(default_factory=dict)
    """settings of the network that replace those of its config.json, such as {depth: 12}"""
    ckpt_path: FilePath | None = None
    """folder or file of the denoiser's weights; a run's checkpoint has EMA weights if it trained with use_ema"""
    dtype: Dtype = "fp32"
    """precision of the denoiser; bf16 runs in float32 on a CPU"""
    lora: list[FilePath] | None = None
    """adapters that the denoiser gets: files, folders, or runs that trained them"""
    lora_scale: list[float] = field(default_factory=lambda: [1.0])
    """strength of the adapters, one for all or one per adapter; 0 leaves an adapter out"""
    space_scale: float | None = None
    """positions within a frame are divided by it (1.0: 0.5 for 256 pixels, 1 for 512); the model's own if not given"""
    time_scale: float | None = None
    """positions of frames are divided by it (1.0: 1 for 16 frames, 2/3 for 64); the model's own if not given"""
    allow_random_weights: bool = False
    """run without weights, to try out settings"""
    enable_sequence_parallelism: bool = False
    """share one video between ranks by tokens"""
    sequence_parallel_shards: int | None = None
    """ranks that share one video, all of them if not given"""
    sequence_parallel_method: Literal["auto", "ulysses", "ring"] = "auto"
    """how they share it by tokens: by heads in each attention (ulysses), or keys and values go round (ring; version
    2.0); auto: ring where 2.0 has fewer heads than ranks"""
    dsp: bool = False
    """share one video between ranks by frames and tokens in turn"""
    guidance_parallel: bool = False
    """share one video between two ranks by the branches of guidance: with the prompt, and without it"""
    shard_weights: bool = False
    """spread the weights of the denoiser and the text encoders over all ranks, which make every video together"""

    def check(self) -> None:
        if self.guidance_parallel and (self.enable_sequence_parallelism or self.dsp):
            raise SettingError(
                "guidance_parallel shares a video in another way than enable_sequence_parallelism and dsp; set one",
                "guidance_parallel",
            )
        if self.sequence_parallel_shards is not None:
            require_at_least(self, sequence_parallel_shards=1)
        strengths(self.lora, self.lora_scale)

    @property
    def loras(self) -> list[tuple[str, float]]:
        """Adapters and their strengths."""
        return strengths(self.lora, self.lora_scale)


def strengths(lora: list[str] | None, lora_scale: list[float]) -> list[tuple[str, float]]:
    """Every adapter with its strength.

    Raises:
        SettingError: neither one strength for all of them, nor one for each.
    """
    count = len(lora or ())
    if len(lora_scale) not in (1, count):
        raise SettingError(
            f"lora_scale has {len(lora_scale)} numbers for {count} adapters; give one for all, or one per adapter",
            "lora_scale",
        )
    return list(zip(lora or (), lora_scale if len(lora_scale) == count else lora_scale * count))


@dataclass
class GenerateAutoencoder(Autoencoder):
    """The autoencoder: pixels to latents and back."""

    vae_config: dict[str, Any] = field(default_factory=dict)
    """settings of the network that replace those of its config.json, such as {use_spatial_tiling: true}"""


@dataclass
class Sampler:
    """From noise to latents."""

    sampling: Literal["rflow", "ddpm", "ddim", "dpm-solver"] | None = None
    """sampler; the model version's own (1.2: rflow) if not given"""
    sampling_steps: int | None = None
    """denoising steps; the model version's own (1.2: 30) if not given"""
    guidance_scale: float | None = None
    """strength of the prompt, 1 turns guidance off; the model version's own (1.2: 7) if not given"""
    guidance_channels: int | None = None
    """latent channels that are guided (1.0 and 1.1)"""
    use_timestep_transform: bool | None = None
    """more steps near noise for large or long videos, fewer for small ones; as the model was trained, the model
    version's own (1.2: True) if not given"""
    guidance_img: float | None = None
    """strength of given pictures and clips (2.0), 1 turns it off; the model version's own (2.0: 3) if not given"""
    text_osci: bool = False
    """guidance by text 1 at every second step after the first ten (2.0)"""
    image_osci: bool = False
    """the same for guidance by what is given (2.0)"""
    scale_temporal_osci: bool = False
    """guidance by what is given falls over the steps, and rises over the frames (2.0)"""
    flow_shift: float | None = None
    """shift of the timesteps (2.0); by the size of the video if not given"""
    ddim_eta: float = 0.0
    """how much of DDPM's noise DDIM adds, 0 to 1"""
    pre_patchify: bool = False
    """the network sees videos of any size as rows of patches of one length, with one graph for all (FiT, 1.1)"""
    max_image_size: int | None = None
    """with pre_patchify, the side in pixels of the square frame that such a row has room for; 512 if not given"""
    num_samples: int = 1
    """videos per prompt, each with its own seed"""
    initial_noise: list[str] | None = None
    """what the videos begin from, instead of the noise of their seeds, one for each video: a seed, and seed:radius of
    what is mixed in, such as 7,12:0.3,40:0.3; search finds such noise"""
    batch_size: int = 4
    """videos that are denoised at once"""
    fps: int | None = None
    """frames per second the model is told; the model version's own (1.2: 24) if not given"""
    frame_interval: int = 1
    """the saved video has fps / frame_interval frames per second"""

    def check(self) -> None:
        require_at_least(self, sampling_steps=1, num_samples=1, batch_size=1, fps=1, frame_interval=1, guidance_scale=0)
        require_at_least(self, max_image_size=8)
        for text in self.initial_noise or ():
            parse_noise(text)


@dataclass
class Cache:
    """Steps that reuse what the denoiser's blocks computed in a step before: faster, and less exact."""

    step_cache: Literal["none", "teacache", "pab"] = "none"
    """none; teacache leaves all blocks out while their input changes little; pab computes attention in some steps only
    (1.0, 1.1 and 1.2)"""
    rel_l1_thresh: float = 0.1
    """teacache: how much change may add up; published for 1.2: 0.1 slow, 0.2 fast"""
    teacache_coefficients: list[float] | None = None
    """teacache: polynomial from the change of the input to that of the result, the highest power first; 1.2's own if
    not given, and for other versions the change itself; 1 alone: each step counts 1, so that rel_l1_thresh 1.5 computes
    every second step, the same for all videos"""
    teacache_order: int = 0
    """teacache: what the blocks would add is forecast over time from the last steps that computed: 0 repeats the last
    one, 1 is a line through two, 2 a parabola through three"""
    teacache_warmup: int = 1
    """teacache: so many steps from the first on compute all blocks"""
    spatial_range: int = 2
    """pab: attention within frames is computed every so many steps"""
    temporal_range: int = 4
    """pab: the same for attention along time"""
    cross_range: int = 6
    """pab: the same for attention to the text"""
    spatial_threshold: list[float] = field(default_factory=lambda: [450.0, 930.0])
    """pab: timesteps, of 1000, between which attention within frames is reused"""
    temporal_threshold: list[float] = field(default_factory=lambda: [450.0, 930.0])
    """pab: the same for attention along time"""
    cross_threshold: list[float] = field(default_factory=lambda: [450.0, 930.0])
    """pab: the same for attention to the text"""
    max_lpips: float | None = None
    """teacache: choose rel_l1_thresh so that videos are at most this far from those without a cache; measured once per
    model and recipe, and kept in step_cache.json of the output folder"""
    lpips_checkpoint: FilePath | None = None
    """for max_lpips, folder or file of the weights of AlexNet and LPIPS"""
    lpips_random: bool = False
    """for max_lpips without weights, the same network with random ones: another scale, for trying out"""

    def check(self) -> None:
        require(self, "teacache_order", self.teacache_order in range(3), "0, 1 or 2")
        require_at_least(self, rel_l1_thresh=0, teacache_warmup=1, spatial_range=1, temporal_range=1, cross_range=1)
        for name in ("spatial_threshold", "temporal_threshold", "cross_threshold"):
            ends = getattr(self, name)
            require(self, name, len(ends) == 2 and ends[0] < ends[1], "two timesteps, the smaller one first")
        if self.teacache_coefficients is not None:
            require(self, "teacache_coefficients", bool(self.teacache_coefficients), "one number or more")
        if self.max_lpips is None:
            return
        require(self, "max_lpips", self.max_lpips > 0, "above 0")
        if self.step_cache != "teacache":
            raise SettingError("max_lpips calibrates teacache; use step_cache teacache", "max_lpips")
        if not self.lpips_checkpoint and not self.lpips_random:
            raise SettingError(
                "max_lpips needs the weights of AlexNet and LPIPS; give their file or folder as --lpips_checkpoint, or "
                "try it out with --lpips_random True",
                "max_lpips",
            )


@dataclass
class Conditions:
    """Given frames and long videos."""

    reference_path: list[FilePaths] | None = None
    """given pictures or videos, separated by ;: for all prompts, or per prompt"""
    mask_strategy: list[str] | None = None
    """where they go (1.1 and 1.2): loop,reference,reference start,target start,length,edit ratio; separated by ;"""
    task: Literal[TASKS + KINDS] | None = None
    """what is done with them, in a word; a version does not know all, and names those it knows"""
    edit_ratio: float = 0.3
    """tasks v2v and edit: 0 keeps the given frames, 1 makes them anew"""
    loop: int = 1
    """clips that are made one after the other, each going on from the one before"""
    condition_frame_length: int | None = None
    """frames of a clip that the next one, or the tasks extend and connect, go on from; the model version's own (1.2:
    17) if not given"""
    condition_frame_edit: float = 0.0
    """0: keep these frames exactly; 1: make them anew"""
    reuse_latents: bool = False
    """begin a clip of a long video with the latents that the one before ends with; as published, if not: with its
    frames, encoded again"""
    picture_as_clip: bool = False
    """encode a given picture as the first frame of a clip that stands still, as given frames were encoded in training;
    by itself, as published, if not (for autoencoders that work in chunks: 1.2)"""
    paste_tail: bool = True
    """put the latents of what is given at the end into the result, as published (2.0); if not, the network's own stay,
    which follow what comes before them, as those of an autoencoder do that is causal in time"""

    def check(self) -> None:
        require_at_least(self, loop=1, condition_frame_length=1)
        for name in ("edit_ratio", "condition_frame_edit"):
            require(self, name, 0 <= getattr(self, name) <= 1, "between 0 and 1")


@dataclass
class Output:
    """What is written, and where."""

    output_path: FilePath = "samples"
    """folder for the videos, a JSON file of all settings beside each, and a contact sheet"""
    append_timestr: bool = True
    """put them in a subfolder named by date and time"""
    save_format: SaveFormat = "mp4"
    """mp4, gif, or png (one file per frame)"""
    file_names: Literal["prompt", "number"] = "prompt"
    """files are called after their prompts (000-a-red-circle), or by number (00000)"""
    save_latent: bool = False
    """also keep the latents, for infer_vae_decode.py"""
    use_vae_decode: bool = True
    """make videos; False with save_latent needs no autoencoder weights"""
    overwrite: bool = False
    """make videos anew, in their place, that are finished already"""
    preview_every: int = 0
    """every so many steps, a small picture of the latents in the folder previews; 0: none"""

    def check(self) -> None:
        require_at_least(self, preview_every=0)


@dataclass
class GenerateConfig(Settings):
    """Videos from prompts."""

    prompts: Prompts = field(default_factory=Prompts)
    shape: Shape = field(default_factory=Shape)
    denoiser: Denoiser = field(default_factory=Denoiser)
    autoencoder: GenerateAutoencoder = field(default_factory=GenerateAutoencoder)
    text: Text = field(default_factory=Text)
    sampler: Sampler = field(default_factory=Sampler)
    cache: Cache = field(default_factory=Cache)
    conditions: Conditions = field(default_factory=Conditions)
    output: Output = field(default_factory=Output)
    runtime: Runtime = field(default_factory=Runtime)

    aliases: ClassVar[dict[str, str]] = {
        "prompt": "captions",
        "pretrained_model_path": "ckpt_path",
        "num_sample": "num_samples",
        "num_sampling_steps": "sampling_steps",
        "cfg_scale": "guidance_scale",
        "save_dir": "output_path",
        "aes": "aesthetic_score",
        "flow": "motion_score",
        "cond_type": "task",
        "ref": "reference_path",
    }
    accepted_but_unused: ClassVar[dict[str, str]] = {
        **UNUSED_EVERYWHERE,
        "max_num_frames": "rows of patches have as many frames as the video",
    }

    def check(self) -> None:
        self._check_cache()
        if not self.output.use_vae_decode and not self.output.save_latent:
            raise UserError("use_vae_decode=False without save_latent=True would write nothing; set save_latent=True")
        if self.conditions.loop > 1 and (self.output.save_latent or not self.output.use_vae_decode):
            raise UserError(
                "loop makes videos of several clips, which have no latents of their own; leave out save_latent"
            )
        prompts_may_say_it = self.prompts.prompt_path or any("--" in text for text in self.prompts.captions or ())
        if not self.shape.is_fixed and not prompts_may_say_it:
            raise UserError("the video has no size; give image_size (height width), or resolution and aspect_ratio")

    def _check_cache(self) -> None:
        """Refuses what a step cache cannot go with."""
        wanted, denoiser = self.cache.step_cache, self.denoiser
        if wanted == "none":
            return
        for name in ("enable_sequence_parallelism", "dsp", "guidance_parallel", "shard_weights"):
            if getattr(denoiser, name):
                raise SettingError(
                    f"step_cache={wanted} does not work where ranks share a video; use {name} False", "step_cache"
                )
        if self.sampler.pre_patchify:
            raise SettingError(
                f"step_cache={wanted} does not work with rows of patches; use pre_patchify False", "step_cache"
            )
        if wanted == "pab" and denoiser.model_version in ("v2.0", "2.0"):
            raise SettingError(
                "step_cache=pab is for attentions in frames and along time, which version 2.0 does not have; use "
                "teacache",
                "step_cache",
            )
