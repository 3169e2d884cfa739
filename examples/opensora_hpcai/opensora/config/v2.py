"""Settings of ``scripts/v2.0``: Open-Sora 2.0 by its published groups, ``group.name=value``.

`opensora.generate.v2` says what they are as settings of ``inference.py``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

from mindone.config import FilePath, FilePaths, SettingError, Settings, require_at_least
from mindone.errors import UserError
from opensora.conditions.visual import KINDS
from opensora.config.common import Device, Dtype, Runtime
from opensora.config.generate import Cache

CLIP_TOKENS = 77
KNOWS_ITSELF = "the autoencoder knows it"
UNUSED_ENV = {
    "cache_graph": "graphs are compiled anew by every process",
    "cache_path": "graphs are compiled anew by every process",
    "precision_mode": "the dtype of each model says it",
}
UNUSED_ENCODER = {"shardformer": "encoders are not split", "cache_dir": "models are local files"}


@dataclass
class Env(Runtime):
    """Device, mode, ranks and seed."""

    seed: int = 42
    """seed of the first video; every other one has the next"""


# --- text_embedding.py -----------------------------------------------------------------------------------------------


@dataclass
class Encoder:
    """One text encoder; its folder says whether it is T5 or CLIP."""

    from_pretrained: FilePath | None = None
    """folder of the encoder: config.json, weights and tokenizer"""
    max_length: int | None = None
    """tokens of a text; 512 of T5 and 77 of CLIP if not given"""
    dtype: Dtype = "fp32"
    """precision of the encoder"""

    def check(self) -> None:
        require_at_least(self, max_length=1)


@dataclass
class EmbedTextV2Config(Settings):
    """Embeddings of prompts by one of the two text encoders, one .npy each; run it once for T5 and once for CLIP."""

    prompts_file: FilePath | None = None
    """.csv with the columns of column_names, or text with one prompt per line"""
    column_names: list[str] = field(default_factory=lambda: ["video", "caption"])
    """columns of the video's path, which names the .npy, and of the prompt"""
    prompts: list[str] | None = None
    """prompts themselves, instead of a file; '' is the empty one that sampling moves away from"""
    output_path: FilePath | None = None
    """folder of the .npy files; one for each encoder"""
    batch_size: int = 10
    """prompts that are encoded at once"""
    fps: int | None = None
    """added to prompts as '24 FPS.', as prompts of videos have it and negative ones have not"""
    motion_score: float | None = None
    """added to prompts as '4 motion score.'"""
    model: Encoder = field(default_factory=Encoder)
    env: Device = field(default_factory=Device)

    aliases: ClassVar[dict[str, str]] = {"distributed": "use_parallel"}
    accepted_but_unused: ClassVar[dict[str, str]] = {**UNUSED_ENV, **UNUSED_ENCODER, "seed": "nothing is random here"}

    def check(self) -> None:
        require_at_least(self, batch_size=1, fps=1)
        if not self.output_path:
            raise SettingError("output_path is not set; give it as output_path=FOLDER", "output_path")
        if bool(self.prompts_file) == (self.prompts is not None):
            raise UserError("give either prompts_file=FILE or prompts='...'")
        if len(self.column_names) != 2:
            raise SettingError(f"column_names={self.column_names} has to be two: video caption", "column_names")


# --- inference_v2.py -------------------------------------------------------------------------------------------------


@dataclass
class TextEmb:
    """What the videos show: embeddings from text_embedding.py, or prompts for the encoders t5 and clip."""

    prompts: FilePath | list[str] | None = None
    """prompts, or a file of them: .csv with a column caption, or .txt with one per line"""
    neg_prompts: FilePath | list[str] | None = None
    """what the videos shall not show, in the same ways; the empty text if not given"""
    t5_dir: FilePath | None = None
    """folder of T5 embeddings, one .npy per prompt in the order of their names"""
    clip_dir: FilePath | None = None
    """the same of CLIP"""
    neg_t5_dir: FilePath | None = None
    """T5 embeddings of what the videos shall not show, one per prompt or one for all"""
    neg_clip_dir: FilePath | None = None
    """the same of CLIP"""

    def check(self) -> None:
        if not (self.t5_dir or self.prompts):
            raise UserError("there is no prompt; give text_emb.prompts='...', or text_emb.t5_dir and text_emb.clip_dir")
        for pair in (("t5_dir", "clip_dir"), ("neg_t5_dir", "neg_clip_dir")):
            given = [name for name in pair if getattr(self, name)]
            if len(given) == 1:
                other = pair[1 - pair.index(given[0])]
                raise SettingError(f"text_emb.{given[0]} needs text_emb.{other} beside it", given[0])
        if self.neg_prompts and self.neg_t5_dir:
            raise UserError("text_emb.neg_prompts and text_emb.neg_t5_dir say the same; give one of them")


@dataclass
class Weights:
    """Weights and precision of a network."""

    from_pretrained: FilePath | None = None
    """folder or file of the weights; a config.json beside them has the sizes"""
    dtype: Dtype = "fp32"
    """precision of the network"""

    def sizes(self) -> dict[str, Any]:
        """The settings of the network that are given, by their published names."""
        own = {item.name for item in fields(Weights)} | {"type", "pretrained_lora_path", "lora_scale"}
        return {name: value for name, value in asdict(self).items() if name not in own and value is not None}


@dataclass
class Mmdit(Weights):
    """A denoiser; sizes that are not given are those of its config.json, or published."""

    pretrained_lora_path: FilePath | None = None
    """an adapter that it gets"""
    lora_scale: float = 1.0
    """strength of the adapter"""
    in_channels: int | None = None
    """channels of a token"""
    vec_in_dim: int | None = None
    """width of CLIP's vector"""
    context_in_dim: int | None = None
    """width of T5's embeddings"""
    hidden_size: int | None = None
    """width of the network"""
    mlp_ratio: float | None = None
    """width of the MLPs over that of the network"""
    num_heads: int | None = None
    """heads of attention"""
    depth: int | None = None
    """blocks with two streams"""
    depth_single_blocks: int | None = None
    """blocks with one stream"""
    axes_dim: list[int] | None = None
    """channels of a head that are rotated by frame, row and column"""
    theta: float | None = None
    """base of the rotary frequencies"""
    qkv_bias: bool | None = None
    """biases of queries, keys and values"""
    patch_size: int | None = None
    """side of the latent squares that are packed to tokens"""
    guidance_embed: bool | None = None
    """guidance is an input (Flux.1-dev)"""
    cond_embed: bool | None = None
    """given frames are an input (Open-Sora 2.0)"""
    fused_qkv: bool | None = None
    """one matrix for queries, keys and values"""
    use_liger_rope: bool | None = None
    """which channels are rotated with each other: halves (Open-Sora 2.0) or neighbours (Flux)"""


@dataclass
class VideoAutoencoder(Weights):
    """The video autoencoder; sizes that are not given are those of its config.json, or published."""

    type: Literal["hunyuan_vae", "dc_ae"] = "hunyuan_vae"
    """which autoencoder it is"""
    in_channels: int | None = None
    """channels of a picture"""
    out_channels: int | None = None
    """channels of a decoded picture"""
    layers_per_block: int | None = None
    """residual blocks per level"""
    latent_channels: int | None = None
    """channels of latents"""
    block_out_channels: list[int] | None = None
    """channels per level"""
    norm_num_groups: int | None = None
    """groups of the norms"""
    scale_factor: float | None = None
    """what latents are multiplied by"""
    shift_factor: float | None = None
    """what is subtracted from latents before"""
    time_compression_ratio: int | None = None
    """frames per latent frame"""
    spatial_compression_ratio: int | None = None
    """pixels per side of a latent"""
    use_spatial_tiling: bool | None = None
    """work on overlapping tiles of a frame: less memory"""
    use_temporal_tiling: bool | None = None
    """work on overlapping pieces of a video: less memory"""
    sample_size: int | None = None
    """pixels per side of a tile (hunyuan_vae)"""
    sample_tsize: int | None = None
    """frames of a piece (hunyuan_vae)"""
    spatial_tile_size: int | None = None
    """pixels per side of a tile (dc_ae)"""
    temporal_tile_size: int | None = None
    """frames of a piece (dc_ae)"""
    scaling_factor: float | None = None
    """what latents are divided by (dc_ae)"""
    tile_overlap_factor: float | None = None
    """the share that neighbouring tiles have in common"""


@dataclass
class ImageAutoencoder(Weights):
    """The autoencoder of the first picture; sizes that are not given are those of its config.json, or published."""

    resolution: int | None = None
    """pixels per side it was trained on"""
    in_channels: int | None = None
    """channels of a picture"""
    ch: int | None = None
    """channels of the first level"""
    out_ch: int | None = None
    """channels of a decoded picture"""
    ch_mult: list[int] | None = None
    """channels of the levels over those of the first"""
    num_res_blocks: int | None = None
    """residual blocks per level"""
    z_channels: int | None = None
    """channels of latents"""
    scale_factor: float | None = None
    """what latents are multiplied by"""
    shift_factor: float | None = None
    """what is subtracted from latents before"""


@dataclass
class Clip:
    """CLIP, for prompts that are not encoded yet."""

    from_pretrained: FilePath | None = None
    """folder of the encoder: config.json, weights and tokenizer"""
    max_length: int = CLIP_TOKENS
    """tokens of a text; 77 is what CLIP takes"""

    def check(self) -> None:
        if self.max_length != CLIP_TOKENS:
            raise SettingError(f"clip.max_length={self.max_length} has to be {CLIP_TOKENS}", "max_length")


CondType = Literal[("t2i", "i2v", "v2v", *KINDS)]


@dataclass
class FirstPicture:
    """Size and sampling of the picture that a video starts from."""

    width: int | None = None
    """pixels; rounded up to 16"""
    height: int | None = None
    """pixels; rounded up to 16"""
    resolution: str | None = None
    """named size instead: 256px, 768px, 1024px, 360p and so on; 768px if no size is given"""
    aspect_ratio: str | None = None
    """width:height of a named size; the video's if not given"""
    num_steps: int = 50
    """denoising steps"""
    guidance: float = 4.0
    """strength of the prompt"""
    shift: bool = True
    """more steps near noise for large pictures and long videos"""
    flow_shift: float | None = None
    """that shift as a number"""
    method: Literal["i2v", "distill"] = "distill"
    """guidance by calls with other texts and pictures (i2v), or as an input of the network (distill)"""

    def check(self) -> None:
        require_at_least(self, width=1, height=1, num_steps=1, guidance=0)
        if bool(self.width) != bool(self.height):
            raise UserError("width and height belong together; give both, or resolution and aspect_ratio")


@dataclass
class SamplingOption(FirstPicture):
    """Size and sampling of the videos."""

    resolution: str | None = None
    """named size: 256px, 768px, 1024px, 360p and so on"""
    aspect_ratio: str | None = None
    """width:height of a named size"""
    method: Literal["i2v", "distill"] = "i2v"
    """guidance by calls with other texts and pictures (i2v), or as an input of the network (distill)"""
    cond_type: CondType = "t2v"
    """what is given beside text: nothing (t2v; t2i makes one frame), or ref: its first frame (i2v_head, or i2v), the
    last one (i2v_tail), both (i2v_loop), its first or last 33 frames (v2v_head, or v2v; v2v_tail) or 65 (v2v_head_easy,
    v2v_tail_easy)"""
    ref: list[FilePaths] | None = None
    """per prompt, the pictures or videos that cond_type is about, separated by ;"""
    use_t2i2v: bool | None = None
    """make a picture of each prompt first, by img_model, and let the video start from it; if not given: whenever
    img_model.from_pretrained is, and there is no ref"""
    num_frames: int | str = 1
    """frames; 1 makes a picture"""
    guidance_img: float | None = None
    """strength of what is given; 3 if not given"""
    text_osci: bool = False
    """guidance by text 1 at every second step after the first ten"""
    image_osci: bool = False
    """the same for guidance by what is given"""
    scale_temporal_osci: bool = False
    """guidance by what is given falls over the steps, and rises over the frames"""
    num_samples: int = 1
    """videos per prompt, each with its own seed, and its own first picture"""
    motion_score: float | Literal["dynamic"] = 4.0
    """added to prompts as '4 motion score.', unless they are encoded already"""
    batch_size: int = 1
    """videos that are denoised at once"""

    def check(self) -> None:
        super().check()
        require_at_least(self, num_samples=1, batch_size=1)
        if not (self.width or self.resolution and self.aspect_ratio):
            raise UserError("the video has no size; give sampling_option.resolution and .aspect_ratio, or its pixels")
        if self.motion_score == "dynamic":
            raise SettingError("motion_score=dynamic would ask a language model; give a number", "motion_score")


@dataclass
class SavingOption:
    """What is written, and where."""

    output_path: FilePath = "samples"
    """folder for the videos, a JSON file of all settings beside each, and a contact sheet"""
    fps: int = 24
    """frames per second of the videos"""

    def check(self) -> None:
        require_at_least(self, fps=1)


@dataclass
class SharedVideo:
    """How ranks share a video, beyond making different ones."""

    enable_sequence_parallelism: bool = False
    """share one video between ranks by tokens"""
    sequence_parallel_shards: int | None = None
    """ranks that share one video, all of them if not given"""
    sequence_parallel_method: Literal["auto", "ulysses", "ring"] = "auto"
    """how they share it by tokens: by heads in each attention (ulysses), or keys and values go round (ring); auto: ring
    where the network has fewer heads than ranks"""
    guidance_parallel: bool = False
    """share one video between two ranks by the branches of guidance: with the prompt, and without it"""


_OF_VIDEOS = sorted({item.name for item in fields(SamplingOption)} - {item.name for item in fields(FirstPicture)})


@dataclass
class InferenceV2Config(Settings):
    """Videos of Open-Sora 2.0 from prompts, from pictures, or from pictures that are made of the prompts first."""

    text_emb: TextEmb = field(default_factory=TextEmb)
    model: Mmdit = field(default_factory=Mmdit)
    ae: VideoAutoencoder = field(default_factory=VideoAutoencoder)
    img_model: Mmdit = field(default_factory=Mmdit)
    img_ae: ImageAutoencoder = field(default_factory=ImageAutoencoder)
    t5: Encoder = field(default_factory=Encoder)
    clip: Clip = field(default_factory=Clip)
    sampling_option: SamplingOption = field(default_factory=SamplingOption)
    sampling_option_t2i: FirstPicture = field(default_factory=FirstPicture)
    cache: Cache = field(default_factory=Cache)
    saving_option: SavingOption = field(default_factory=SavingOption)
    parallel: SharedVideo = field(default_factory=SharedVideo)
    env: Env = field(default_factory=Env)

    aliases: ClassVar[dict[str, str]] = {"distributed": "use_parallel"}
    accepted_but_unused: ClassVar[dict[str, str]] = {
        **UNUSED_ENV,
        **UNUSED_ENCODER,
        **{f"sampling_option_t2i.{name}": "it is about videos, and this about one picture" for name in _OF_VIDEOS},
        "ae.model_name": "type says it",
        "ae.from_scratch": "weights have one layout",
        "clip.dtype": "CLIP runs in t5.dtype",
        "temporal_reduction": KNOWS_ITSELF,
        "is_causal_vae": KNOWS_ITSELF,
        "resized_resolution": "the first picture gets the size of the video",
    }

    @property
    def makes_picture(self) -> bool:
        """Whether the videos start from pictures that are made first."""
        option = self.sampling_option
        if option.use_t2i2v is not None:
            return option.use_t2i2v
        return bool(self.img_model.from_pretrained) and self._may_start_from_picture()

    def _may_start_from_picture(self) -> bool:
        option = self.sampling_option
        return not option.ref and option.num_frames != 1 and option.cond_type in ("t2v", "i2v", "i2v_head")

    def check(self) -> None:
        option = self.sampling_option
        if option.use_t2i2v and not self._may_start_from_picture():
            raise SettingError(
                "use_t2i2v=True makes the first picture of a video; leave ref and cond_type out, or set it to False",
                "use_t2i2v",
            )
        if self.makes_picture and (self.parallel.enable_sequence_parallelism or self.parallel.guidance_parallel):
            raise SettingError(
                "ranks that share a video do not share its first picture; make the pictures in a run of their own and "
                "give them as sampling_option.ref",
                "parallel",
            )
        if (option.cond_type in ("t2v", "t2i")) == bool(option.ref) and not self.makes_picture:
            way = "give a cond_type such as i2v_head" if option.ref else "give sampling_option.ref=FILE"
            raise SettingError(f"cond_type={option.cond_type} and ref={option.ref} do not fit; {way}", "cond_type")
        self._check_models()

    @property
    def encodes_text(self) -> bool:
        """Whether the text encoders are needed: prompts, or what is moved away from, are not encoded yet."""
        guided = self.sampling_option.guidance > 1 and self.sampling_option.method == "i2v"
        return not self.text_emb.t5_dir or guided and not self.text_emb.neg_t5_dir

    def _check_models(self) -> None:
        needed = {"model": "the denoiser", "ae": "the video autoencoder"}
        if self.makes_picture:
            needed |= {"img_model": "the first picture's denoiser", "img_ae": "the first picture's autoencoder"}
        if self.encodes_text:
            needed |= {"t5": "T5", "clip": "CLIP"}
        for group, what in needed.items():
            if getattr(self, group).from_pretrained:
                continue
            way = ""
            if group.startswith("img"):
                way = "; sampling_option.use_t2i2v=False makes no picture"
            elif group in ("t5", "clip") and self.text_emb.t5_dir:
                way = (
                    " to encode what the videos move away from, or its embeddings as text_emb.neg_t5_dir and "
                    "text_emb.neg_clip_dir (text_embedding.py prompts='' makes those of the empty text)"
                )
            raise UserError(f"{what} is needed; give {group}.from_pretrained=FOLDER_OR_FILE{way}")
