"""Open-Sora 2.0 by its published groups of settings: what ``scripts/v2.0/inference_v2.py`` does.

The settings become those of ``inference.py``, and `opensora.generate.run` does the rest: once, or twice if a picture is
made of each prompt first, from which its video then starts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from mindone.config import check
from mindone.errors import UserError
from opensora import networks
from opensora.config.common import Runtime, Shape, Text
from opensora.config.generate import Conditions, Denoiser, GenerateAutoencoder, GenerateConfig, Output, Prompts, Sampler
from opensora.data.aspect import closest_ratio_2_0
from opensora.flow_settings import FLOW_SETTINGS
from opensora.generate.first_image import with_first_images
from opensora.generate.run import generate
from opensora.model_folder import require_path
from opensora.start import start
from opensora.text.prompts import collect_prompts

if TYPE_CHECKING:
    from opensora.config.v2 import FirstPicture, InferenceV2Config, Mmdit, Weights
    from opensora.generate.results import Result

logger = logging.getLogger(__name__)

# autoencoder → its name in `opensora.networks`, and the denoiser of its latents
VIDEO_NETWORKS = {"hunyuan_vae": ("Hunyuan-VAE", "MMDiT-11B"), "dc_ae": ("Video-DC-AE", "MMDiT-11B-DCAE")}
TASKS = {"i2v": "i2v_head", "v2v": "v2v_head"}
PROMPT_FILES = (".csv", ".txt")
PICTURE_NETWORK = "Flux.1-dev"
# Size of first pictures if none is given.
PICTURE_SIZE = "768px"
# Folder of the first pictures, in that of the videos.
PICTURE_FOLDER = "generated_condition"


def generate_v2(config: InferenceV2Config) -> list[Result]:
    """Generates and writes the videos of ``config``; returns those of this rank.

    Raises:
        UserError: what in the settings cannot work; found before a network is loaded where possible.
    """
    start(config.env)
    _require_models(config)
    _require_method(config.model, config.sampling_option, VIDEO_NETWORKS[config.ae.type][1])
    videos = video_settings(config)
    check(videos)
    if config.text_emb.t5_dir:
        logger.info("the embeddings are taken as they are; the texts should end with frame rate and motion score")
    if config.makes_picture:
        _require_method(config.img_model, config.sampling_option_t2i, PICTURE_NETWORK)
        pictures = picture_settings(config)
        check(pictures)
        videos = with_first_images(videos, pictures)
    return generate(videos)


def _require_models(config: InferenceV2Config) -> None:
    models = {"model": "the denoiser's weights", "ae": "the autoencoder's weights"}
    if config.makes_picture:
        models |= {"img_model": "the first picture's denoiser", "img_ae": "the first picture's autoencoder"}
    if config.encodes_text:
        models |= {"t5": "T5's files", "clip": "CLIP's files"}
    for group, what in models.items():
        require_path(getattr(config, group).from_pretrained, what, f"{group}.from_pretrained")


def _require_method(model: Mmdit, option: FirstPicture, preset: str) -> None:
    """Refuses a way of guidance that the network was not trained for."""
    embedded = networks.denoiser_config(preset, model.from_pretrained, model.sizes()).guidance_embed
    if embedded != (option.method == "distill"):
        raise UserError(
            f"method={option.method} does not fit {model.from_pretrained}, whose guidance_embed is {embedded}; "
            f"use {'distill' if embedded else 'i2v'}"
        )


# --- the settings ----------------------------------------------------------------------------------------------------


def video_settings(config: InferenceV2Config) -> GenerateConfig:
    """The videos, without first pictures."""
    option = config.sampling_option
    vae_type, denoiser = VIDEO_NETWORKS[config.ae.type]
    settings = _settings(config, config.model, config.ae, vae_type, option)
    settings.denoiser.model_name = denoiser
    settings.shape = _shape(option, 1 if option.cond_type == "t2i" else option.num_frames)
    settings.prompts.motion_score = option.motion_score
    settings.cache = config.cache
    if option.ref:
        settings.conditions = Conditions(reference_path=option.ref, task=TASKS.get(option.cond_type, option.cond_type))
    return settings


def picture_settings(config: InferenceV2Config) -> GenerateConfig:
    """The first pictures: one for every video, with that video's seed, in the videos' shape if no other is given."""
    option, video = config.sampling_option_t2i, config.sampling_option
    settings = _settings(config, config.img_model, config.img_ae, "Flux-AE", option)
    settings.denoiser.model_name = PICTURE_NETWORK
    settings.shape = _shape(option, 1)
    if not option.width:
        name = option.resolution or PICTURE_SIZE
        ratio = video.aspect_ratio or closest_ratio_2_0(video.height, video.width, name)
        settings.shape = Shape(None, name, option.aspect_ratio or ratio, 1)
    settings.output.output_path = f"{config.saving_option.output_path}/{PICTURE_FOLDER}"
    return settings


def _settings(
    config: InferenceV2Config, model: Mmdit, autoencoder: Weights, vae_type: str, option: FirstPicture
) -> GenerateConfig:
    """What videos and pictures have in common."""
    video, known = config.sampling_option, fields(option)
    return GenerateConfig(
        prompts=_prompts(config),
        denoiser=Denoiser(
            "v2.0",
            ckpt_path=model.from_pretrained,
            dtype=model.dtype,
            lora=[model.pretrained_lora_path] if model.pretrained_lora_path else None,
            lora_scale=[model.lora_scale],
            denoiser_config=model.sizes(),
            **{item.name: getattr(config.parallel, item.name) for item in fields(config.parallel)},
        ),
        autoencoder=GenerateAutoencoder(
            autoencoder.from_pretrained, vae_type, autoencoder.dtype, vae_config=autoencoder.sizes()
        ),
        text=Text(config.t5.from_pretrained, config.clip.from_pretrained, config.t5.dtype, config.t5.max_length),
        sampler=Sampler(
            **{FLOW_SETTINGS[item.name]: getattr(option, item.name) for item in known if item.name in FLOW_SETTINGS},
            num_samples=video.num_samples,
            batch_size=video.batch_size,
            fps=config.saving_option.fps,
        ),
        output=Output(config.saving_option.output_path, append_timestr=False, file_names="number"),
        runtime=Runtime(**{item.name: getattr(config.env, item.name) for item in fields(Runtime)}),
    )


def _prompts(config: InferenceV2Config) -> Prompts:
    given = config.text_emb
    return Prompts(
        captions=_texts(given.prompts),
        negative_prompts=_texts(given.neg_prompts),
        text_embed_folder=f"{given.t5_dir};{given.clip_dir}" if given.t5_dir else None,
        negative_embed_folder=f"{given.neg_t5_dir};{given.neg_clip_dir}" if given.neg_t5_dir else None,
        caption_cleaning="none",
    )


def _texts(given: str | Sequence[str] | None) -> list[str] | None:
    """Prompts of a file, or as they are given."""
    if isinstance(given, str):
        is_file = given.lower().endswith(PROMPT_FILES)
        return collect_prompts(None, given) if is_file else [given]
    return given and list(given)


def _shape(option: FirstPicture, num_frames: int | str) -> Shape:
    size = [option.height, option.width] if option.width else None
    names = (None, None) if size else (option.resolution, option.aspect_ratio)
    return Shape(size, *names, num_frames)
