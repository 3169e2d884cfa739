"""Long videos: clips join on the right frames, and texts change with the loops."""

import json

import numpy as np
import pytest
from generate_inputs import PROMPTS

from mindone.data.video import read_video
from mindone.errors import UserError
from opensora.families import settle
from opensora.generate import latents, pixels, run
from opensora.generate.loops import Film
from opensora.generate.run import generate

LOOPS = {
    "v1.1": {"num_frames": 6, "condition_frame_length": 2},
    "v1.2": {"num_frames": 34, "condition_frame_length": 17},
}


@pytest.mark.parametrize("version", LOOPS)
def test_clips_join_without_doubled_frames(version, settings, monkeypatch):
    frames, overlap = LOOPS[version].values()
    clips = []
    decoded = pixels._decoded
    monkeypatch.setattr(pixels, "_decoded", lambda *given: clips.append(decoded(*given)) or clips[-1])
    (result,) = generate(settings(version=version, loop=3, save_format="png", **LOOPS[version]))
    pictures = sorted(result.video.glob("*.png"))
    assert len(pictures) == frames + 2 * (frames - overlap)
    record = json.loads(result.video.with_suffix(".json").read_text())
    assert record["num_frames"] == len(pictures)
    film = np.concatenate([read_video(picture) for picture in pictures])
    expected = np.concatenate([pixels.to_uint8(clips[0]), *(pixels.to_uint8(clip)[overlap:] for clip in clips[1:])])
    np.testing.assert_array_equal(film, expected)


@pytest.mark.parametrize("version", LOOPS)
def test_a_clip_begins_with_the_last_frames_of_the_one_before(version, settings, monkeypatch):
    requests, videos = [], []
    asked, decoded = latents.sample_request, pixels._decoded
    monkeypatch.setattr(latents, "sample_request", lambda *given: requests.append(asked(*given)) or requests[-1])
    monkeypatch.setattr(pixels, "_decoded", lambda *given: videos.append(decoded(*given)) or videos[-1])
    config = settings(version=version, loop=2, **LOOPS[version])
    overlap = LOOPS[version]["condition_frame_length"]
    (result,) = generate(config)
    family, settled = settle(config, version)
    autoencoder = pixels.load_autoencoder(run.make_plan(settled, family))
    end = Film(overlap).encoded_end(autoencoder, videos[0], result.job.seed, 1)
    count = end.shape[1]
    assert requests[0].edit_mask is None
    np.testing.assert_array_equal(requests[1].edit_mask, [[0] * count + [1] * (result.latents.shape[1] - count)])
    np.testing.assert_allclose(requests[1].noise[0, :, :count], end, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(result.latents[:, :count], requests[1].noise[0, :, :count])
    # Other noise than in the first loop, for what is made.
    assert np.abs(requests[0].noise[0, :, count:] - requests[1].noise[0, :, count:]).max() > 0.1


@pytest.mark.parametrize("version", LOOPS)
def test_a_clip_may_begin_with_the_latents_of_the_one_before(version, settings, monkeypatch):
    requests, clips, asked, decoded = [], [], latents.sample_request, pixels._decoded
    monkeypatch.setattr(latents, "sample_request", lambda *given: requests.append(asked(*given)) or requests[-1])
    monkeypatch.setattr(pixels, "_decoded", lambda *given: clips.append(given[-1].latents) or decoded(*given))
    generate(settings(version=version, loop=2, reuse_latents=True, **LOOPS[version]))
    count = int((requests[1].edit_mask == 0).sum())
    np.testing.assert_array_equal(requests[1].noise[0, :, :count], clips[0][:, -count:])


def test_a_clip_that_may_change_what_it_begins_with_is_told_so(settings, monkeypatch):
    requests, asked = [], latents.sample_request
    monkeypatch.setattr(latents, "sample_request", lambda *given: requests.append(asked(*given)) or requests[-1])
    generate(settings(version="v1.1", loop=2, condition_frame_edit=0.5, **LOOPS["v1.1"]))
    assert requests[1].edit_mask.tolist() == [[0.5, 0.5, 1, 1, 1, 1]]


def test_references_and_loops_go_together_and_texts_change_with_the_loop(settings, material, monkeypatch):
    requests, asked = [], latents.sample_request
    monkeypatch.setattr(latents, "sample_request", lambda *given: requests.append(asked(*given)) or requests[-1])
    captions = [f"|0|{PROMPTS[0]}|1|{PROMPTS[1]}", PROMPTS[1]]
    given = {"reference_path": f"{material / 'a.png'};{material / 'b.png'}", "mask_strategy": "0;1,1,0,-1,1"}
    results = generate(settings(version="v1.1", loop=2, captions=captions, **given, **LOOPS["v1.1"]))
    assert requests[0].edit_mask.tolist() == [[0, 1, 1, 1, 1, 1]] * 2
    assert requests[1].edit_mask.tolist() == [[0, 0, 1, 1, 1, 0]] * 2
    first, second = (request.text["text"] for request in requests)
    assert np.abs(first[0] - first[1]).max() > 0
    np.testing.assert_array_equal(second[0], second[1])
    np.testing.assert_array_equal(first[1], second[1])
    assert results[0].job.stem == "000-a-red-circle-moves-left"
    record = json.loads(results[0].video.with_suffix(".json").read_text())
    assert record["encoded_text"] == PROMPTS[:2]


def test_a_length_that_splits_a_chunk_is_rounded_and_said(settings, caplog):
    family, config = settle(settings(loop=2, condition_frame_length=5), "v1.2")
    plan = run.make_plan(config, family)
    assert plan.clip_frames == 17
    assert "condition_frame_length=5 is taken as 17: the autoencoder works in chunks of 17 frames" in caplog.text
    assert plan.total_frames(plan.jobs[0]) == 51


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 17, "loop": 2}, "clips of 17 frames that begin with 17 frames of the one before"),
        ({"loop": 2, "captions": ["|0|a|3|b"]}, "has a text for loop 3, but loop=2"),
        ({"loop": 2, "save_latent": True}, "leave out save_latent"),
        (
            {"version": "v1.2", "num_frames": 40, "loop": 2, "reuse_latents": True},
            "needs num_frames in chunks of the autoencoder, 17 frames each",
        ),
        ({"condition_frame_edit": 2}, "condition_frame_edit=2.0 has to be between 0 and 1"),
    ],
)
def test_loops_that_cannot_be_are_refused_in_one_line(settings, changes, message):
    with pytest.raises(UserError, match=message) as error:
        generate(settings(**changes))
    assert "\n" not in str(error.value)
