import json

import numpy as np
import pytest
from generate_inputs import PROMPTS, TOKENS, latents_of

from mindone.data.video import read_video
from mindone.errors import UserError
from mindone.parallel.mesh import Mesh
from opensora.data.cache import prompt_path, write_text
from opensora.generate import pixels, plan
from opensora.generate.requests import Request
from opensora.generate.run import generate
from opensora.text.encoder import TextEncoder


@pytest.fixture
def settings(settings):
    """Three prompts, three frames each."""

    def build(*flags, **changes):
        return settings(*flags, **{"captions": PROMPTS, "num_frames": 3, **changes})

    return build


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
    again = generate(settings(batch_size=3, guidance_scale=2, **latents_only))
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

    monkeypatch.setattr(pixels.networks, "load_autoencoder", fail)
    with pytest.raises(UserError, match="not enough memory for the autoencoder.*vae_dtype.*denoised_latents"):
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


def test_samples_are_shared_between_ranks_without_changing_their_seeds():
    prompts = [Request(text, text, samples=2) for text in PROMPTS]
    jobs = plan.list_jobs(prompts, seed=100)
    shares = []
    for rank in (0, 1):
        own, share = plan.own_share(prompts, jobs, Mesh(rank, 2))
        assert plan.own_share(prompts, jobs, Mesh(2 * rank + 1, 4, sequence=2)) == (own, share)
        shares.append({(own[job.row].text, job.seed, job.stem) for job in share})
    assert shares[0] & shares[1] == set()
    assert shares[0] | shares[1] == {(prompts[job.row].text, job.seed, job.stem) for job in jobs}
    assert sorted(job.seed for job in jobs) == [100, 101, 102, 103, 104, 105]


def test_without_weights_random_ones_are_used_only_if_asked_for(settings):
    config = settings("--allow_random_weights", "True", ckpt_path=None, vae_checkpoint=None)
    assert config.denoiser.allow_random_weights
    with pytest.raises(UserError, match="ckpt_path"):
        generate(settings(ckpt_path=None, vae_checkpoint=None))
