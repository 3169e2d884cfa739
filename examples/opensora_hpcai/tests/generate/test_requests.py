"""What prompts may say themselves: sizes, seeds, negative prompts; and what cannot be."""

import json
import logging

import numpy as np
import pytest
from generate_inputs import PROMPTS, TOKENS, latents_of

from mindone.errors import UserError
from opensora.data.cache import prompt_path, write_text
from opensora.families import settle
from opensora.generate.plan import make_plan
from opensora.generate.run import generate
from opensora.generate.texts import encode_texts

LATENTS = {"use_vae_decode": False, "save_latent": True}


def plan_of(config):
    family, config = settle(config, config.denoiser.model_version)
    return make_plan(config, family)


def test_prompts_of_different_sizes_are_made_in_one_run(settings, caplog):
    captions = ["a red circle --w 16 --h 8 --f 3 --s 99", "a blue circle", "a circle --w 16 --h 8 --f 3", "a red --f 1"]
    caplog.set_level(logging.INFO)
    results = generate(settings(version="v1.1", captions=captions, num_frames=2, **LATENTS))
    assert [result.latents.shape for result in results] == [(4, 3, 4, 8), (4, 2, 4, 4), (4, 3, 4, 8), (4, 1, 4, 4)]
    assert [result.job.seed for result in results] == [99, 8, 9, 10]
    assert "2 videos of 3 frames, 8x16 pixels (landscape) and 1 video of 2 frames, 8x8 pixels (square)" in caplog.text
    assert "1 picture, 8x8 pixels" in caplog.text
    (alone,) = generate(settings(version="v1.1", captions=captions[:1], num_frames=2, guidance_scale=7, **LATENTS))
    assert alone.latents is None, "the same prompt with the same seed is the same video"


@pytest.mark.parametrize("version", ["v1", "v1.1", "v1.2", "v2.0"])
def test_a_negative_prompt_changes_the_video_of_its_prompt_alone(version, settings):
    shared = {"version": version, "captions": PROMPTS[:2], "num_frames": 1, "overwrite": True, **LATENTS}
    plain = latents_of(generate(settings(**shared)))
    both = latents_of(generate(settings(negative_prompts=["a blue"], **shared)))
    one = latents_of(generate(settings(negative_prompts=["", "a blue"], **shared)))
    assert all(np.abs(plain[row] - both[row]).max() > 1e-4 for row in (0, 1))
    np.testing.assert_allclose(one[0], plain[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(one[1], both[1], rtol=1e-3, atol=1e-4)


def test_guidance_of_2_0_moves_away_from_the_empty_prompt(settings):
    plan = plan_of(settings(version="v2.0", captions=PROMPTS[:2]))
    texts = encode_texts(plan)
    (row,) = set(texts.negatives)
    assert texts.encoded[row] == ""
    assert texts.encoded[0] == "a red circle moves left. 8 FPS. 4 motion score."
    plain = encode_texts(plan_of(settings(version="v2.0", captions=PROMPTS[:1], prompt_suffix=False)))
    assert plain.encoded[0] == PROMPTS[0]
    unguided = encode_texts(plan_of(settings(version="v2.0", guidance_scale=1)))
    assert unguided.negatives == [None]


def test_learned_negatives_have_their_own_mask(settings):
    plan = plan_of(settings(captions=PROMPTS[:1], negative_prompts=["a"]))
    texts = encode_texts(plan)
    negative = texts.negative_of(plan.jobs)
    assert negative["text_mask"].sum() == 2
    assert texts.of(plan.jobs, 0)["text_mask"].sum() == 6


def test_scores_of_1_2_are_added_only_if_they_are_given(settings):
    assert encode_texts(plan_of(settings(captions=["A cat"]))).encoded == ["a cat"]
    scored = encode_texts(plan_of(settings(captions=["A cat"], motion_score=5, aesthetic_score=6.5)))
    assert scored.encoded == ["a cat aesthetic score: 6.5. motion score: 5.0."]


@pytest.fixture
def cache(tmp_path):
    def make(name, texts, said=None):
        rng = np.random.default_rng(0)
        for row, text in enumerate(texts):
            arrays = {
                "text_emb": rng.normal(size=(TOKENS, 16)),
                "mask": np.ones(TOKENS),
                "tokens": np.ones(TOKENS),
                "pooled": rng.normal(size=12),
            }
            record = {"text": text, "encoded": text.lower()} if said is None else said
            write_text(prompt_path(tmp_path / name, row, text), arrays, True, record)
        return tmp_path / name

    return make


def test_a_cache_of_other_prompts_is_refused(settings, cache):
    folder = cache("texts", PROMPTS[:2])
    shared = {"t5_model_name_or_path": None, "text_embed_folder": folder, "num_frames": 1, **LATENTS}
    results = generate(settings(captions=None, **shared))
    records = [json.loads(result.latents_file.with_suffix(".json").read_text()) for result in results]
    assert [record["prompt"] for record in records] == PROMPTS[:2]
    assert generate(settings(captions=PROMPTS[:2], **shared))[0].latents is None
    with pytest.raises(UserError, match="was made from 'a red circle moves left', not from 'a blue circle'"):
        generate(settings(captions=PROMPTS[1::-1], **shared))


def test_negative_prompts_may_be_cached_too(settings, cache):
    shared = {"version": "v2.0", "captions": None, "text_embed_folder": cache("texts", PROMPTS[:2]), "num_frames": 1}
    no_encoders = {"t5_model_name_or_path": None, "clip_model_name_or_path": None}
    with pytest.raises(UserError, match="t5_model_name_or_path"):
        generate(settings(**shared, **no_encoders, **LATENTS))
    negative = {"negative_embed_folder": cache("negative", ["ugly"])}
    results = generate(settings(**shared, **no_encoders, **negative, **LATENTS))
    assert json.loads(results[1].latents_file.with_suffix(".json").read_text())["negative"] == "ugly"


def test_seconds_become_frames_that_the_networks_can_do(settings):
    sizes = {
        ("v1.2", "2.5sec"): 20,
        ("v1.1", "1sec"): 8,
        ("v1.1", "2s"): 51,
        ("v2.0", "2.5sec"): 21,
        ("v1.2", "0.01sec"): 1,
    }
    for (version, asked), frames in sizes.items():
        plan = plan_of(settings(version=version, num_frames=asked))
        assert plan.size(plan.jobs[0])[0] == frames, (version, asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "v2.0", "num_frames": 40}, "num_frames=40 is no length .* use 37 or 41"),
        ({"num_frames": "xsec"}, "xsec is not a length in seconds"),
        ({"num_frames": "-2sec"}, "is not a length in seconds"),
        ({"captions": ["a", "b --w 9 --h 8"]}, "prompt 2: image_size=8x9: 9 is not divisible by 2.*use 8"),
        ({"negative_prompts": ["a"], "guidance_scale": 1}, "negative_prompts need guidance"),
        ({"negative_prompts": ["a", "b"]}, "negative_prompts has 2 entries for 1 prompts"),
        ({"version": "v2.0", "clip_model_name_or_path": None}, "clip_model_name_or_path is not set"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        generate(settings(**changes))
    assert not (tmp_path / "samples").exists()
