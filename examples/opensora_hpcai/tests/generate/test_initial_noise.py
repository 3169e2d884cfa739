"""Videos that begin from given noise, and a search for it with small networks."""

import json
from dataclasses import fields

import numpy as np
import pytest
from generate_inputs import PROMPTS, latents_of

from mindone.errors import UserError
from opensora.config.search import Search, SearchConfig
from opensora.evaluation import search as searching
from opensora.generate import run
from opensora.generate.run import generate

LATENTS = {"use_vae_decode": False, "save_latent": True, "num_frames": 1}


def test_noise_of_a_seed_makes_the_video_of_that_seed_and_wins_over_the_run(settings):
    (own,) = generate(settings(seed=9, **LATENTS))
    (given,) = generate(settings(seed=3, initial_noise=["9"], **LATENTS))
    assert given.job.seed == 9
    assert given.latents is None and given.latents_file == own.latents_file


def test_each_video_of_each_prompt_has_its_own_noise_which_its_record_says(settings):
    noises = ["7", "7,8:0.5", "9,8:0.25,7:0.5", "5"]
    results = generate(settings(captions=PROMPTS[:2], num_samples=2, initial_noise=noises, **LATENTS))
    assert [str(result.job.noise) for result in results] == noises
    assert len({latents.tobytes() for latents in latents_of(results)}) == 4
    records = [json.loads(result.latents_file.with_suffix(".json").read_text()) for result in results]
    assert [record["initial_noise"] for record in records] == [None, *noises[1:3], None]
    assert [record["seed"] for record in records] == [7, 7, 9, 5]
    # What the record says makes the video again, alone, and is known to be there.
    alone = generate(settings(captions=PROMPTS[1:2], initial_noise=noises[2:3], overwrite=True, **LATENTS))
    np.testing.assert_allclose(alone[0].latents, results[2].latents, rtol=1e-4, atol=1e-4)
    again = generate(settings(captions=PROMPTS[:2], num_samples=2, initial_noise=noises, **LATENTS))
    assert all(result.latents is None for result in again)


def test_references_may_be_per_prompt_where_noise_is_per_video(settings, material):
    noises = ["1", "2", "3", "4"]
    references = [str(material / "a.png"), str(material / "b.png")]
    changes = {"captions": PROMPTS[:2], "num_samples": 2, "reference_path": references, "mask_strategy": ["0"]}
    results = generate(settings(**{**LATENTS, **changes, "initial_noise": noises, "num_frames": 34}))
    records = [json.loads(result.latents_file.with_suffix(".json").read_text()) for result in results]
    assert [record["references"] for record in records] == [[name] for name in references for _ in range(2)]


def test_another_number_of_noises_than_videos_is_refused(settings):
    with pytest.raises(UserError, match="initial_noise has 1 entries for 2 videos; give one for each"):
        generate(settings(num_samples=2, initial_noise=["7"], **LATENTS))


@pytest.mark.parametrize("method", ["best_of_n", "zero_order"])
def test_a_search_that_is_repeated_makes_no_video_twice(settings, monkeypatch, method):
    made = []
    monkeypatch.setattr(searching, "make_judge", lambda search: lambda video, prompt: float(len(video.read_bytes())))
    monkeypatch.setattr(run, "make", lambda plan, texts, make=run.make: made.extend(plan.jobs) or make(plan, texts))
    sampling = settings(captions=PROMPTS[:2], num_frames=3)
    groups = {group.name: getattr(sampling, group.name) for group in fields(sampling)}
    config = SearchConfig(**groups, search=Search(candidates=4, neighbours=2, judge="toy", search_method=method))
    first = searching.search(config)
    assert len({(job.row, job.noise) for job in made}) == len(made) == 8
    folder = first[0].video.parent
    record = json.loads((folder / searching.SCORES).read_text())
    assert len({each["video"] for each in record["candidates"]}) == 8
    assert searching.search(config) == first
    assert len(made) == 8 and json.loads((folder / searching.SCORES).read_text()) == record
