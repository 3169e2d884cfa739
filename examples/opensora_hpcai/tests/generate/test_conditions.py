"""Every task with every version that knows it: what is given stays, and a batch is as good as one by one."""

import json

import numpy as np
import pytest
from generate_inputs import PROMPTS

from mindone.data.transforms import normalise
from mindone.data.video import read_video
from mindone.errors import UserError
from opensora.conditions.given import Reference
from opensora.families import settle
from opensora.generate import references as given
from opensora.generate import run
from opensora.generate.pixels import load_autoencoder
from opensora.generate.plan import make_plan
from opensora.generate.references import encode_references, read_reference
from opensora.generate.results import made_from
from opensora.generate.run import generate

# version → task → files that are given, and latent frames that are kept; all frames are made anew without any
CELLS = {
    "v1.1": {
        "i2v": ("a.png", [0]),
        "v2v": ("a.mp4", []),
        "edit": ("a.mp4", []),
        "interpolate": ("a.png;b.png", [0, 7]),
        "connect": ("a.mp4;b.mp4", [0, 1, 6, 7]),
        "extend": ("a.mp4", [0, 1]),
        "extend_before": ("a.mp4", [6, 7]),
    },
    "v1.2": {
        "i2v": ("a.png", [0]),
        "v2v": ("a.mp4", []),
        "edit": ("a.mp4", []),
        "interpolate": ("a.png;b.png", [0, 5]),
        "connect": ("a.mp4;b.mp4", [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]),
        "extend": ("a.mp4", [0, 1, 2, 3, 4]),
        "extend_before": ("a.mp4", [5, 6, 7, 8, 9]),
    },
    "v2.0": {
        "i2v": ("a.png", [0]),
        "interpolate": ("a.png;b.png", [0, 10]),
        "extend": ("a.mp4", list(range(9))),
        "extend_before": ("a.mp4", list(range(2, 11))),
        "i2v_head": ("a.mp4", [0]),
        "i2v_tail": ("a.mp4", [10]),
        "i2v_loop": ("a.png;b.mp4", [0, 10]),
        "v2v_head": ("a.mp4", list(range(9))),
        "v2v_tail": ("a.mp4", list(range(2, 11))),
        "v2v_head_easy": ("a.mp4", list(range(17))),
        "v2v_tail_easy": ("a.mp4", list(range(2, 19))),
        "t2v": (None, []),
    },
}
CHANGES = {
    ("v1.1", None): {"condition_frame_length": 2},
    ("v1.2", "connect"): {"num_frames": 51},
    ("v2.0", "v2v_head_easy"): {"num_frames": 73},
    ("v2.0", "v2v_tail_easy"): {"num_frames": 73},
}
LATENTS = {"use_vae_decode": False, "save_latent": True}
WHOLE = [(version, task) for version, tasks in CELLS.items() for task in tasks]


def references(material, names):
    return None if names is None else ";".join(str(material / name) for name in names.split(";"))


def changes_of(version, task, material):
    asked = {"task": task, "reference_path": references(material, CELLS[version][task][0])}
    return {**CHANGES.get((version, None), {}), **CHANGES.get((version, task), {}), **asked}


def plan_of(config):
    family, config = settle(config, config.denoiser.model_version)
    return make_plan(config, family)


@pytest.mark.parametrize(("version", "task"), WHOLE)
def test_a_task_keeps_what_is_given_exactly_and_makes_the_rest(version, task, settings, material, monkeypatch):
    encoded = []
    monkeypatch.setattr(run, "encode_references", lambda plan: encoded.append(encode_references(plan)) or encoded[0])
    (result,) = generate(settings(version=version, **LATENTS, **changes_of(version, task, material)))
    latents_given = encoded[0][result.job]
    kept = CELLS[version][task][1]
    if kept:
        np.testing.assert_array_equal(result.latents[:, kept], np.concatenate(latents_given, 1))
    elif task in ("v2v", "edit"):
        changed = np.abs(result.latents - latents_given[0][:, : result.latents.shape[1]]).max(axis=(0, 2, 3))
        assert (changed > 1e-3).all()
    others = [frame for frame in range(result.latents.shape[1]) if frame not in kept]
    assert all(np.abs(result.latents[:, frame]).max() > 0 for frame in others)
    record = json.loads(result.latents_file.with_suffix(".json").read_text())
    assert record["task"] == task
    assert len(record["references"]) == len(latents_given)


def test_the_end_of_a_video_of_2_0_may_stay_as_the_network_made_it(settings, material):
    shared = {"version": "v2.0", **changes_of("v2.0", "interpolate", material), **LATENTS}
    first, second = settings(**shared), settings(**shared, paste_tail=False, overwrite=True)
    (pasted,), (own,) = generate(first), generate(second)
    np.testing.assert_array_equal(own.latents[:, :-1], pasted.latents[:, :-1])
    assert np.abs(own.latents[:, -1] - pasted.latents[:, -1]).max() > 1e-3
    plans = [plan_of(config) for config in (first, second)]
    assert made_from(plans[0], plans[0].jobs[0]) != made_from(plans[1], plans[1].jobs[0])


@pytest.mark.parametrize("version", ["v1", "v1.1", "v1.2", "v2.0"])
def test_every_version_makes_videos_of_text_alone(version, settings):
    results = generate(settings(version=version, captions=PROMPTS, batch_size=2))
    for result in results:
        record = json.loads(result.video.with_suffix(".json").read_text())
        assert read_video(result.video).shape == (record["num_frames"], record["height"], record["width"], 3)
        assert (record["model_version"], record["references"], record["finished"]) == (version, [], True)


@pytest.mark.parametrize("version", ["v1.1", "v1.2", "v2.0"])
def test_given_frames_work_in_compiled_graphs(version, settings, material):
    shared = {**changes_of(version, "i2v", material), **LATENTS, "overwrite": True}
    compiled, stepwise = (generate(settings(version=version, mode=mode, **shared))[0].latents for mode in (0, 1))
    np.testing.assert_allclose(compiled, stepwise, rtol=1e-3, atol=1e-3)


def decoded(config, latents, frames):
    return load_autoencoder(plan_of(config)).decode(latents[None], frames).asnumpy()[0]


# The norms of the autoencoder of 2.0 mix all frames, so that its given frames depend on the others.
@pytest.mark.parametrize(("version", "first"), [("v1.1", 2), ("v1.2", 17)])
def test_kept_frames_look_as_the_autoencoder_reconstructs_the_clip(version, first, settings, material):
    config = settings(version=version, **changes_of(version, "extend", material))
    plan = plan_of(config)
    clip = normalise(read_reference(Reference(str(material / "a.mp4"), -first), *plan.size(plan.jobs[0])[1:]))
    autoencoder = load_autoencoder(plan)
    (mean, std) = given.posterior_of(autoencoder, clip, "clip")
    own = given.sample(autoencoder, mean, std, plan.jobs[0].seed, 0, 0)
    reconstruction = autoencoder.decode(own[None], first).asnumpy()[0]
    (result,) = generate(config)
    video = decoded(config, result.latents, plan.size(plan.jobs[0])[0])
    error = np.square(np.clip(video[:, :first], -1, 1) - np.clip(reconstruction, -1, 1)).mean()
    assert 10 * np.log10(4 / max(error, 1e-12)) > 25


@pytest.mark.parametrize("version", ["v1.1", "v1.2", "v2.0"])
def test_a_batch_of_different_conditions_is_as_good_as_one_by_one(version, settings, material):
    tasks = [None, "i2v", "interpolate" if version == "v2.0" else "edit", "extend"]
    lines = []
    for number, task in enumerate(tasks):
        paths = references(material, CELLS[version][task][0]) if task else ""
        lines.append({"prompt": PROMPTS[number % 3], "seed": 40 + number, "task": task, "reference": paths})
    file = settings().output.output_path + ".jsonl"
    with open(file, "w") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    # Without much guidance the values stay small enough to be compared.
    shared = {"version": version, "captions": None, "guidance_scale": 1.5, "guidance_img": 1.5, **LATENTS}
    shared |= CHANGES.get((version, None), {})
    together = generate(settings(prompt_path=file, batch_size=4, **shared))
    alone = generate(settings(prompt_path=file, batch_size=1, overwrite=True, **shared))
    assert len({result.latents.tobytes() for result in together}) == 4
    for one, other in zip(together, alone):
        np.testing.assert_allclose(one.latents, other.latents, rtol=1e-3, atol=1e-3)


def test_strategies_place_references_by_hand(settings, material):
    config = settings(
        version="v1.1",
        reference_path=references(material, "a.png;b.mp4"),
        mask_strategy="0,0,0,-1,1;0,1,5,2,3",
        **LATENTS,
    )
    latents_given = next(iter(encode_references(plan_of(config)).values()))
    (result,) = generate(config)
    np.testing.assert_array_equal(result.latents[:, -1:], latents_given[0])
    np.testing.assert_array_equal(result.latents[:, 2:5], latents_given[1][:, 5:8])


def test_a_prompt_may_name_its_reference_itself(settings, material):
    inside = json.dumps({"reference_path": str(material / "a.png"), "mask_strategy": "0"})
    outside = {"reference_path": material / "a.png", "mask_strategy": "0"}
    (one,) = generate(settings(captions=[PROMPTS[0] + inside], **LATENTS))
    (other,) = generate(settings(**outside, overwrite=True, **LATENTS))
    np.testing.assert_array_equal(one.latents, other.latents)


def test_a_reference_is_resized_to_cover_and_its_middle_is_taken(material):
    frames = read_reference(Reference(str(material / "a.mp4"), -3), 12, 8)
    whole = read_video(material / "a.mp4")
    assert frames.shape == (3, 12, 8, 3)
    middle = whole[-3:, :, 8:24].reshape(3, 12, 2, 8, 2, 3).mean((2, 4))
    assert np.abs(frames - middle).max() <= 2


def test_a_picture_can_be_encoded_as_the_first_frame_of_a_clip_that_stands_still(settings, material):
    config = settings(version="v1.2", picture_as_clip=True, **changes_of("v1.2", "i2v", material))
    plan = plan_of(config)
    ((latents,),) = encode_references(plan).values()
    autoencoder = load_autoencoder(plan)
    still = normalise(
        np.repeat(read_reference(Reference(str(material / "a.png")), *plan.size(plan.jobs[0])[1:]), 17, 0)
    )
    mean, std = given.posterior_of(autoencoder, still, "a still clip")
    expected = given.sample(autoencoder, mean[:, :1], std[:, :1], plan.jobs[0].seed, 0, 0)
    np.testing.assert_allclose(latents, expected, atol=1e-5)
    (alone,) = next(
        iter(encode_references(plan_of(settings(version="v1.2", **changes_of("v1.2", "i2v", material)))).values())
    )
    assert np.abs(latents - alone).max() > 1e-3


def test_a_sampled_reference_belongs_to_the_seed_of_its_video(settings, material):
    config = settings(version="v2.0", num_samples=2, **changes_of("v2.0", "i2v", material))
    first, second = encode_references(plan_of(config)).values()
    again, _ = encode_references(plan_of(config)).values()
    np.testing.assert_array_equal(first[0], again[0])
    assert np.abs(first[0] - second[0]).max() > 0


REFUSED = {
    "a reference for 1.0": (
        "v1",
        {"reference_path": "a.png"},
        "reference_path=.* is not supported by model_version v1",
    ),
    "a task for 1.0": ("v1", {"task": "i2v"}, "task=i2v is not supported by model_version v1; use version 1.1"),
    "loops of 1.0": ("v1", {"loop": 2}, "loop=2 is not supported by model_version v1; use version 1.1 or 1.2"),
    "loops of 2.0": ("v2.0", {"loop": 2}, "loop=2 is not supported by model_version v2.0"),
    "a strategy for 2.0": ("v2.0", {"reference_path": "a.png", "mask_strategy": "0"}, "mask_strategy=.*; use task"),
    "a kind of 2.0 for 1.2": (
        "v1.2",
        {"reference_path": "a.png", "task": "i2v_head"},
        "of version 2.0; use one of",
    ),
    "editing with 2.0": ("v2.0", {"reference_path": "a.mp4", "task": "edit"}, "task=edit is not one of version 2.0"),
    "a reference without a task": ("v1.2", {"reference_path": "a.png"}, "nothing says what is done.*--task i2v"),
    "a task without a reference": ("v1.2", {"task": "i2v"}, "takes 1 reference, but 0 are given"),
    "one reference of two": ("v2.0", {"task": "i2v_loop", "reference_path": "a.png"}, "takes 2 references, but 1"),
    "a task and a strategy": (
        "v1.1",
        {"task": "i2v", "mask_strategy": "0", "reference_path": "a.png"},
        "say the same thing",
    ),
    "a strategy without its reference": ("v1.1", {"mask_strategy": "0"}, "wants reference 0, but 0 are given"),
    "a place beyond the end": (
        "v1.1",
        {"mask_strategy": "0,0,0,9", "reference_path": "a.png"},
        "8 latent frames, so none can start at 9",
    ),
    "a strategy of a later loop": (
        "v1.1",
        {"mask_strategy": "2", "reference_path": "a.png"},
        "belongs to loop 2; use --loop 3",
    ),
    "pictures as clips without chunks": (
        "v1.1",
        {"task": "i2v", "reference_path": "a.png", "picture_as_clip": True},
        "does not work in chunks; leave out picture_as_clip",
    ),
    "an end that is not pasted": (
        "v1.2",
        {"task": "interpolate", "reference_path": "a.png;a.png", "paste_tail": False},
        "leave it out; version 2.0 has it",
    ),
    "a missing file": ("v1.2", {"task": "i2v", "reference_path": "none.png"}, "none.png"),
    "a picture as a clip": ("v1.2", {"task": "extend", "reference_path": "a.png"}, "has 1 frames, but 17 are needed"),
    "too short a video": ("v1.2", {"task": "extend", "reference_path": "a.mp4", "num_frames": 17}, "leaves nothing of"),
    "a part of a chunk at the end": (
        "v1.2",
        {"task": "extend_before", "reference_path": "a.mp4", "num_frames": 40},
        "use 34 instead of 40",
    ),
    "too short for a third": (
        "v2.0",
        {"task": "v2v_head", "reference_path": "a.mp4", "num_frames": 33},
        "v2v_head gives 9 latent frames, but the video has 9",
    ),
    "lists of other lengths": ("v1.2", {"mask_strategy": ["0", "0"]}, "2 entries for 1 prompts"),
    "a solver without masks": (
        "v1.1",
        {"task": "i2v", "reference_path": "a.png", "sampling": "dpm-solver"},
        "sampling=dpm-solver keeps no given frames",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_version_cannot_be_given_is_refused_in_one_line(case, settings, material, tmp_path):
    version, changes, message = REFUSED[case]
    if "reference_path" in changes:
        changes = {**changes, "reference_path": references(material, changes["reference_path"])}
    with pytest.raises(UserError, match=message) as error:
        generate(settings(version=version, **changes))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.mp4"))
