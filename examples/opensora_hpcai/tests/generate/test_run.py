import dataclasses
import json

import mindspore as ms
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mindone.checkpoint import save_model
from mindone.config import parse
from mindone.data.video import read_video
from mindone.errors import UserError
from mindone.models.autoencoder_kl import AutoencoderKLConfig
from mindone.models.t5 import T5Config, T5Encoder
from opensora import outputs
from opensora.config import GenerateConfig
from opensora.data.cache import prompt_path, write_text
from opensora.generate import plan, run
from opensora.generate.run import generate
from opensora.models.stdit3 import STDiT3, STDiT3Config
from opensora.models.vae_temporal import TemporalAutoencoderConfig
from opensora.models.vae_v1_2 import VideoAutoencoder, VideoAutoencoderConfig
from opensora.text.encoder import TextEncoder

TOKENS, CAPTION_WIDTH = 8, 16
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "moves", "left", "up"]
PROMPTS = ["a red circle moves left", "a blue circle", "a red circle moves up"]


def save_random(folder, network, config):
    rng = np.random.default_rng(0)
    for name, parameter in network.parameters_and_names():
        norm = "norm" in name and name.endswith("weight")
        if name not in ("shift", "scale", "rope.freqs"):
            value = norm + 0.2 * rng.normal(size=parameter.shape)
            parameter.set_data(ms.Tensor(value.astype(np.float32)))
    save_model(folder, network, outputs.plain(config))


def save_tokenizer(folder):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Tiny networks with random weights, in folders as they are published."""
    root = tmp_path_factory.mktemp("models")
    t5 = T5Config(vocab_size=len(WORDS), d_model=CAPTION_WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    save_random(root / "t5", T5Encoder(t5), t5)
    save_tokenizer(root / "t5")
    denoiser = STDiT3Config(
        hidden_size=16, depth=1, num_heads=2, caption_channels=CAPTION_WIDTH, model_max_length=TOKENS
    )
    save_random(root / "stdit", STDiT3(denoiser), denoiser)
    levels = 2
    image = AutoencoderKLConfig(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        layers_per_block=1,
        norm_num_groups=4,
    )
    temporal = TemporalAutoencoderConfig(
        filters=8, num_res_blocks=1, num_groups=4, channel_multipliers=(1, 1), temporal_downsample=(True,)
    )
    vae = VideoAutoencoderConfig(autoencoder_kl=image, vae_temporal=temporal)
    save_random(root / "vae", VideoAutoencoder(vae), vae)
    return root


@pytest.fixture
def settings(folders, tmp_path):
    """Builds a config: the tiny models, 3 frames of 8x8 in two steps, into a folder without a time stamp."""

    def build(*flags, **changes):
        values = {
            "ckpt_path": folders / "stdit",
            "vae_checkpoint": folders / "vae",
            "t5_model_name_or_path": folders / "t5",
            "image_size": [8, 8],
            "num_frames": 3,
            "sampling_steps": 2,
            "seed": 7,
            "mode": 1,
            "device_target": "CPU",
            "fps": 8,
            "output_path": tmp_path / "samples",
            "append_timestr": False,
            "captions": PROMPTS,
            **changes,
        }
        argv = []
        for name, value in values.items():
            if value is not None:
                argv += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        return parse(GenerateConfig, [*argv, *flags])

    return build


def latents_of(results):
    return np.stack([result.latents for result in results])


def test_prompts_become_videos_with_their_records_and_a_contact_sheet(settings, tmp_path):
    results = generate(settings(mode=0, batch_size=2, num_samples=2, captions=PROMPTS[:2]))
    stems = [f"{name}-{k}" for name in ("000-a-red-circle-moves-left", "001-a-blue-circle") for k in (0, 1)]
    folder = tmp_path / "samples"
    assert [result.video for result in results] == [folder / f"{stem}.mp4" for stem in stems]
    assert (folder / "contact_sheet.png").is_file()
    frames = read_video(results[0].video)
    assert np.asarray(frames).shape == (3, 8, 8, 3)
    record = json.loads((folder / f"{stems[3]}.json").read_text())
    assert record["prompt"] == "a blue circle"
    assert record["seed"] == 10
    assert record["settings"]["sampler"]["sampling_steps"] == 2
    assert {"mindone", "mindspore"} <= set(record["versions"])
    assert set(record["seconds"]) == {"denoise", "decode"}
    assert len({result.latents.tobytes() for result in results}) == 4


def test_a_seed_gives_the_same_video_in_any_batch_and_nothing_is_overwritten(settings, tmp_path):
    latents_only = {"save_latent": True, "use_vae_decode": False}
    together = generate(settings(batch_size=2, **latents_only))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    seed = together[2].job.seed
    (alone,) = generate(settings(batch_size=4, captions=PROMPTS[2:], seed=seed, **latents_only))
    np.testing.assert_allclose(alone.latents, together[2].latents, rtol=1e-4, atol=1e-4)
    again = generate(settings(batch_size=3, **latents_only))
    np.testing.assert_allclose(latents_of(again), latents_of(together), rtol=1e-4, atol=1e-4)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert again[0].latents_file.name == "000-a-red-circle-moves-left-2.npy"
    assert np.array_equal(np.load(again[0].latents_file)[0], again[0].latents)


def test_cached_embeddings_of_either_form_replace_the_text_encoder(settings, folders, tmp_path):
    encoded = TextEncoder.from_folder(folders / "t5", TOKENS).encode(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        arrays = dict(zip(("text_emb", "mask", "tokens"), (array[row] for array in encoded[:3])))
        write_text(prompt_path(tmp_path / "prompts", row, prompt), arrays, batch_dim=True)
        # A cache with fewer tokens than the denoiser takes is as good.
        write_text(
            tmp_path / "videos" / f"clip{row}.npz", {name: array[: TOKENS - 1] for name, array in arrays.items()}
        )
    latents_only = {"save_latent": True, "use_vae_decode": False}
    online = generate(settings(**latents_only))
    for cache in ("prompts", "videos"):
        changes = {"t5_model_name_or_path": None, "text_embed_folder": tmp_path / cache, "captions": None}
        cached = generate(settings(**changes, **latents_only))
        np.testing.assert_allclose(latents_of(cached), latents_of(online), rtol=1e-4, atol=1e-4)
        assert all(result.video is None for result in cached)
    assert [result.job.stem for result in cached] == ["clip0", "clip1", "clip2"]
    assert len(list((tmp_path / "samples" / "denoised_latents").glob("clip*.json"))) == 3


def test_latents_are_kept_when_decoding_fails(settings, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(run.networks, "load_autoencoder", fail)
    with pytest.raises(MemoryError):
        generate(settings(captions=PROMPTS[:1], num_frames=1))
    kept = np.load(tmp_path / "samples" / "denoised_latents" / "000-a-red-circle-moves-left.npy")
    assert kept.shape == (1, 4, 1, 4, 4)


def test_one_frame_becomes_a_picture(settings):
    (result,) = generate(settings(num_frames=1, captions=PROMPTS[:1]))
    assert result.video.suffix == ".png"
    assert result.latents.shape == (4, 1, 4, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ckpt_path": None}, "ckpt_path"),
        ({"ckpt_path": "missing/folder"}, "missing/folder"),
        ({"vae_checkpoint": None}, "vae_checkpoint"),
        ({"t5_model_name_or_path": None}, "t5_model_name_or_path"),
        ({"image_size": [9, 8]}, "not divisible by 2"),
        ({"captions": None}, "no prompt"),
        ({"prompt_path": "nowhere.txt"}, "nowhere.txt"),
        ({"text_embed_folder": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(settings, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        generate(settings(**changes))
    assert not (tmp_path / "samples").exists()


def test_samples_are_shared_between_ranks_without_changing_their_seeds(monkeypatch):
    prompts = [plan.Prompt(text, text) for text in PROMPTS]
    jobs = plan.list_jobs(prompts, 2, seed=100)
    shares = []
    for rank in (0, 1):
        current = dataclasses.replace(plan.runtime.current(), rank=rank, world_size=2)
        monkeypatch.setattr(plan.runtime, "current", lambda current=current: current)
        own, share = plan.own_share(prompts, jobs)
        shares.append({(own[job.row].text, job.seed, job.stem) for job in share})
    assert shares[0] & shares[1] == set()
    assert shares[0] | shares[1] == {(prompts[job.row].text, job.seed, job.stem) for job in jobs}
    assert sorted(job.seed for job in jobs) == [100, 101, 102, 103, 104, 105]


def test_without_weights_random_ones_are_used_only_if_asked_for(settings):
    config = settings("--allow_random_weights", "True", ckpt_path=None, vae_checkpoint=None)
    assert config.denoiser.allow_random_weights
    with pytest.raises(UserError, match="ckpt_path"):
        generate(settings(ckpt_path=None, vae_checkpoint=None))
