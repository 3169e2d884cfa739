"""A run that is repeated makes what is not finished, and nothing else."""

import json
import shutil

import pytest
from generate_inputs import PROMPTS

from opensora.generate import pixels
from opensora.generate.run import generate

LATENTS = {"use_vae_decode": False, "save_latent": True}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("\n".join(PROMPTS[:2]))
    return path


@pytest.fixture
def again(settings, file):
    """Runs the file of prompts with changed settings, and counts the videos that are decoded."""

    def run(monkeypatch=None, **changes):
        return generate(settings(**{"captions": None, "prompt_path": file, "num_frames": 1, **changes}))

    return run


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "sheet" not in path.name}


def test_finished_videos_are_kept_and_others_are_made(again, file, tmp_path):
    first = again()
    before = content(tmp_path / "samples")
    second = again(batch_size=1)
    assert content(tmp_path / "samples") == before
    assert [result.video for result in second] == [result.video for result in first]
    assert all(result.latents is None for result in second)
    file.write_text("\n".join([*PROMPTS[:2], PROMPTS[2]]))
    third = again()
    assert [result.latents is None for result in third] == [True, True, False]
    assert content(tmp_path / "samples").items() >= before.items()


@pytest.mark.parametrize(
    "changes", [{"seed": 8}, {"sampling_steps": 1}, {"guidance_scale": 2}, {"image_size": [16, 8]}, {"dtype": "bf16"}]
)
def test_other_settings_make_other_videos_under_other_names(again, tmp_path, changes):
    again()
    before = content(tmp_path / "samples")
    results = again(**changes)
    assert [result.video.stem for result in results] == ["000-a-red-circle-moves-left-2", "001-a-blue-circle-2"]
    assert content(tmp_path / "samples").items() >= before.items()
    assert all(result.latents is None for result in again(**changes))
    assert all(result.latents is None for result in again())


def test_other_weights_under_the_same_name_make_another_video(again, folders, tmp_path):
    folder = shutil.copytree(folders / "v1.2", tmp_path / "model")
    again(ckpt_path=folder)
    assert all(result.latents is None for result in again(ckpt_path=folder))
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    results = again(ckpt_path=folder)
    assert [result.video.stem for result in results] == ["000-a-red-circle-moves-left-2", "001-a-blue-circle-2"]


def test_a_video_that_is_gone_or_half_written_is_made_again_in_its_place(again, tmp_path):
    first, second = again()
    first.video.unlink()
    record = second.video.with_suffix(".json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "finished": False}))
    one, other = again()
    assert one.latents is not None
    assert other.latents is not None
    assert other.video == second.video
    assert json.loads(record.read_text())["finished"] is True


def test_a_run_that_is_stopped_goes_on_where_it_was(again, monkeypatch, tmp_path):
    write, count = pixels.outputs.write_clip, []

    def stop(*given):
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return write(*given)

    monkeypatch.setattr(pixels.outputs, "write_clip", stop)
    with pytest.raises(KeyboardInterrupt):
        again()
    first, second = again()
    assert first.latents is None
    assert second.latents is not None
    assert second.video.stem == "001-a-blue-circle"


def test_a_seed_that_nobody_chose_may_differ_but_a_chosen_one_may_not(again, file):
    first = again(seed=None)
    second = again(seed=None)
    assert [result.job.seed for result in second] == [result.job.seed for result in first]
    assert all(result.latents is None for result in second)
    file.write_text(f"{PROMPTS[0]} --s 3\n{PROMPTS[1]}")
    third = again(seed=None)
    assert [result.latents is None for result in third] == [False, True]
    assert third[0].job.seed == 3


def test_overwrite_makes_videos_anew_in_their_place(again, tmp_path):
    first = again()
    names = set(content(tmp_path / "samples"))
    results = again(overwrite=True)
    assert all(result.latents is not None for result in results)
    assert [result.video for result in results] == [result.video for result in first]
    assert set(content(tmp_path / "samples")) == names


def test_latents_are_found_again_as_well(again, tmp_path):
    again(**LATENTS)
    before = content(tmp_path / "samples")
    results = again(**LATENTS)
    assert all(result.latents is None and result.latents_file.is_file() for result in results)
    assert content(tmp_path / "samples") == before
