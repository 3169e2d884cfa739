"""Videos that wait: in order, one at a time, and none lost whatever ends."""

import io
import json
import time
from dataclasses import replace

import pytest
from serving_world import MODEL, RECIPE

from mindone.errors import UserError
from opensora.serving.jobs import read_jobs, write_job
from opensora.serving.queue import QueueFull


def ask(queue, prompt="a red circle", **settings):
    return queue.submit(None, {"captions": [prompt], **settings})


def finished(queue, job):
    while not queue.get(job.id).is_over:
        time.sleep(0.01)
    return queue.get(job.id)


def running(queue, job):
    while queue.get(job.id).status == "queued" or queue.progress(job) == 0:
        time.sleep(0.01)


def test_a_video_is_made_by_the_command_line_of_its_settings(opened):
    queue = opened(preview_every=3)
    job = finished(queue, ask(queue, "-a red=circle seed=1", image_size=[64, 96], num_frames="2.5sec", seed=7))
    assert (job.status, job.error) == ("completed", None)
    folder = queue.folder / job.id
    argv = json.loads(queue.file(job).read_text())
    assert argv[:2] == ["--config", RECIPE]
    assert {"--captions=-a red=circle seed=1", "--image_size=[64, 96]", "--num_frames=2.5sec", "--seed=7"} < set(argv)
    assert {f"--output_path={folder}", "--append_timestr=False", "--preview_every=3"} < set(argv)


def test_a_seed_is_chosen_when_the_video_is_asked_for(opened):
    job = ask(opened(started=False))
    assert 0 <= job.settings["seed"] < 2**31


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("refuse", "image_size=7x7 has no latents; use 8x8 or more"),
        ("fail", "the video could not be made: RuntimeError: the device is gone"),
        ("die", "the video could not be made: the worker process ended with code 9, perhaps for lack of memory"),
    ],
)
def test_a_video_that_fails_says_why_and_the_next_one_is_made(opened, prompt, message):
    queue = opened()
    bad, good = ask(queue, prompt), ask(queue)
    assert (finished(queue, bad).status, finished(queue, bad).error) == ("failed", message)
    assert finished(queue, good).status == "completed"


def test_a_full_queue_takes_no_more_and_leaves_no_folder(opened):
    queue = opened(started=False, limit=2)
    ask(queue), ask(queue)
    with pytest.raises(QueueFull, match="2 videos wait already"):
        ask(queue)
    assert len(list(queue.folder.glob("video_*"))) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"captions": None}, "there is no prompt"),
        ({"captions": [" "]}, "there is no prompt"),
        ({"sampling_steps": 0}, "sampling_steps=0"),
        ({"task": "nothing"}, "task"),
        ({"image_size": [64, "--output_path=x"]}, "image_size"),
        ({"captions": ["a cat --s 0"]}, "the prompt itself says seed"),
        ({"captions": ['a cat{"reference_path": "/etc/a.png"}']}, "the prompt itself says reference_path"),
        ({"captions": ["a" * 10_001]}, "10001 characters"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_they_wait(opened, settings, message):
    queue = opened(started=False)
    with pytest.raises(UserError, match=message):
        queue.submit(None, {"captions": ["a cat"], **settings})
    assert not list(queue.folder.glob("video_*"))


def test_a_reference_keeps_nothing_of_its_name_but_the_ending(opened):
    queue = opened()
    job = queue.submit(MODEL, {"captions": ["a cat"], "task": "i2v"}, [("../../x;y.PNG", io.BytesIO(b"picture"))])
    assert job.references == ["reference-0.png"]
    assert (queue.folder / job.id / "reference-0.png").read_bytes() == b"picture"
    assert f"--reference_path={queue.folder / job.id}/reference-0.png" in json.loads(
        queue.file(finished(queue, job)).read_text()
    )
    with pytest.raises(UserError, match="no picture or video"):
        queue.submit(MODEL, {"captions": ["a cat"]}, [("a.pkl", io.BytesIO(b""))])


def test_cancelling_stops_what_is_made_and_what_waits_and_goes_on(opened):
    queue = opened()
    slow, waiting, last = ask(queue, "wait"), ask(queue), ask(queue)
    running(queue, slow)
    assert queue.place(queue.get(last.id)) == 1
    assert 0.4 < queue.progress(slow) < 0.5
    assert queue.cancel(waiting.id).status == "cancelled"
    assert queue.cancel(slow.id).status == "cancelled"
    assert not list((queue.folder / slow.id).glob(".tmp-*"))
    assert finished(queue, last).status == "completed"
    assert queue.cancel(last.id).status == "completed"


def test_deleting_removes_files_of_a_video_whatever_its_state(opened):
    queue = opened()
    slow, waiting = ask(queue, "wait"), ask(queue)
    running(queue, slow)
    assert queue.delete(waiting.id) and queue.delete(slow.id)
    assert not queue.delete(slow.id)
    assert queue.jobs() == [] and not list(queue.folder.glob("video_*"))


def test_after_a_restart_everything_that_was_asked_for_is_made(opened):
    queue = opened()
    done, slow, waiting = ask(queue), ask(queue, "wait"), ask(queue)
    finished(queue, done), running(queue, slow)
    queue.close()
    left = read_jobs(queue.folder)
    assert [(job.id, job.status) for job in left] == [
        (done.id, "completed"),
        (slow.id, "queued"),
        (waiting.id, "queued"),
    ]
    # The second time it is not slow.
    write_job(queue.folder, replace(left[1], settings={**slow.settings, "captions": ["quick"]}))
    again = opened()
    assert finished(again, slow).status == finished(again, waiting).status == "completed"
    assert again.get(done.id) == left[0]


def test_a_job_that_is_being_made_still_waits_on_disk(opened):
    queue = opened()
    job = ask(queue, "wait")
    running(queue, job)
    assert [found.status for found in read_jobs(queue.folder)] == ["queued"]


def test_a_damaged_job_file_is_left_out(opened, caplog):
    queue = opened(started=False)
    job = ask(queue)
    for number, text in enumerate(("{", "[]", '{"id": "video_2"}')):
        (queue.folder / f"video_{number}").mkdir()
        (queue.folder / f"video_{number}" / "job.json").write_text(text)
    assert [found.id for found in read_jobs(queue.folder)] == [job.id]
    assert caplog.text.count("is no video job") == 3


def test_a_model_that_is_served_no_more_fails_in_one_sentence(opened):
    queue = opened(started=False)
    job = ask(queue)
    queue.close()
    write_job(queue.folder, replace(job, model="gone"))
    again = opened()
    assert finished(again, job).error == f"model=gone is not served any more; use one of {MODEL}"


def test_one_folder_has_one_queue_at_a_time(opened):
    queue = opened(started=False)
    with pytest.raises(UserError, match="is in use by another page or server"):
        opened(started=False)
    queue.close()
    opened(started=False)


def test_a_disk_that_is_full_does_not_stop_the_queue(opened, monkeypatch):
    queue = opened()
    slow, last = ask(queue, "wait"), ask(queue)
    running(queue, slow)

    def full(*_):
        raise UserError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("opensora.serving.queue.write_job", full)
        assert queue.cancel(slow.id).status == "cancelled"
        assert finished(queue, last).status == "completed"
    assert [job.status for job in read_jobs(queue.folder)] == ["queued", "queued"]
