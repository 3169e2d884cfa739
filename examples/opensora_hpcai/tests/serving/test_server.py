"""The videos endpoint on the loopback."""

import json
import threading

import pytest
from serving_world import MODEL, form

from mindone.config import parse
from mindone.errors import UserError
from opensora.config import ServeConfig
from opensora.serving.server import open_queue, serve, start_server

VIDEOS = "/v1/videos"


def error_of(answer):
    """The error of an answer, which has the one shape that all have."""
    assert set(answer) == {"error"} and set(answer["error"]) == {"message", "type", "param", "code"}
    return answer["error"]


def test_a_video_is_asked_for_polled_fetched_and_deleted(opened, served):
    client = served(opened())
    job = client.create("a red circle", size="96x64", seconds="2.5", sampling_steps=5, seed=7)
    assert job["object"] == "video" and job["model"] == MODEL and job["status"] in ("queued", "in_progress")
    assert (job["size"], job["seconds"], job["seed"], job["prompt"]) == ("96x64", "2.5", 7, "a red circle")
    done = client.wait(job["id"])
    assert (done["status"], done["progress"], done["error"]) == ("completed", 100, None)
    status, content = client.ask("GET", f"{VIDEOS}/{job['id']}/content")
    assert status == 200 and "--image_size=[64, 96]" in json.loads(content)
    assert client.ask("DELETE", f"{VIDEOS}/{job['id']}") == (
        200,
        {"id": job["id"], "object": "video.deleted", "deleted": True},
    )
    status, answer = client.ask("GET", f"{VIDEOS}/{job['id']}")
    assert status == 404 and "there is no video" in error_of(answer)["message"]


def test_two_hundred_requests_at_once_and_none_is_lost(opened, served):
    queue = opened(limit=200)
    client, jobs = served(queue), []

    def ask(numbers):
        jobs.extend((number, client.create(f"video {number}")["id"]) for number in numbers)

    threads = [threading.Thread(target=ask, args=(range(first, 200, 8),)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job_id for _, job_id in jobs}) == 200
    for number, job_id in jobs:
        assert client.wait(job_id)["status"] == "completed"
        status, content = client.ask("GET", f"{VIDEOS}/{job_id}/content")
        assert status == 200 and f"--captions=video {number}" in json.loads(content)
    assert [job.started_at for job in queue.jobs()] == sorted(job.started_at for job in queue.jobs())


def test_pictures_come_as_files_of_a_form(opened, served):
    queue = opened()
    client = served(queue)
    body, kind = form({"prompt": "a cat", "task": "i2v"}, {"input_reference": ("cat.png", b"\x89PNG")})
    status, job = client.ask("POST", VIDEOS, body, Content_Type=kind)
    assert status == 200
    assert (queue.folder / job["id"] / "reference-0.png").read_bytes() == b"\x89PNG"
    assert "reference_path" not in job["settings"]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({}, "prompt", "there is no prompt"),
        ({"prompt": "a cat", "step": 3}, "step", "unknown field 'step'"),
        ({"prompt": "a cat", "output_path": "/tmp"}, "output_path", "unknown field"),
        ({"prompt": "a cat", "size": "64*64"}, "size", "WIDTHxHEIGHT"),
        ({"prompt": "a cat", "seconds": "nan"}, "seconds", "above 0"),
        ({"prompt": "a cat", "seconds": 2, "num_frames": 17}, "seconds", "give one"),
        ({"prompt": "a cat", "sampling_steps": 0}, "sampling_steps", "at least 1"),
        ({"prompt": "a cat", "seed": [1]}, "seed", "text or a number"),
        ({"prompt": "a cat", "model": "sora-2"}, "model", f"use one of {MODEL}"),
        ({"prompt": "a cat", "input_reference": "/etc/a.png"}, "input_reference", "file of a form"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_its_field(opened, served, fields, param, message):
    client = served(opened(started=False))
    status, answer = client.ask("POST", VIDEOS, fields)
    error = error_of(answer)
    assert (status, error["code"], error["type"], error["param"]) == (400, 400, "invalid_request_error", param)
    assert message in error["message"]


def test_a_full_queue_answers_429_and_goes_on_when_there_is_room(opened, served):
    client = served(opened(started=False, limit=2))
    first = client.create("one")["id"]
    assert client.create("two")["queue_position"] == 1
    status, answer = client.ask("POST", VIDEOS, {"prompt": "three"})
    assert (status, error_of(answer)["type"]) == (429, "rate_limit_error")
    client.ask("DELETE", f"{VIDEOS}/{first}")
    client.create("three")


def test_every_error_has_one_shape(opened, served):
    client = served(opened(started=False), max_upload_mb=1)
    waiting = client.create("a cat")["id"]
    answers = {
        404: client.ask("GET", "/nowhere"),
        405: client.ask("PUT", VIDEOS),
        409: client.ask("GET", f"{VIDEOS}/{waiting}/content"),
        413: client.ask("POST", VIDEOS, b" " * 1_000_001),
        400: client.ask("POST", VIDEOS, b"[" * 100_000),
        411: client.ask("POST", VIDEOS, iter([b"{}"]), Transfer_Encoding="chunked"),
    }
    for expected, (status, answer) in answers.items():
        assert status == expected == error_of(answer)["code"]


def test_an_error_of_the_server_is_no_traceback(opened, served, monkeypatch):
    queue = opened(started=False)
    client = served(queue)
    monkeypatch.setattr(queue, "jobs", lambda: 1 / 0)
    status, answer = client.ask("GET", VIDEOS)
    assert (status, error_of(answer)["message"]) == (500, "the server failed; its log says why")


def test_videos_are_listed_in_pages_the_newest_first(opened, served):
    client = served(opened(started=False))
    made = [client.create(f"video {number}")["id"] for number in range(3)]
    status, page = client.ask("GET", f"{VIDEOS}?limit=2")
    assert ([job["id"] for job in page["data"]], page["has_more"]) == ([made[2], made[1]], True)
    status, page = client.ask("GET", f"{VIDEOS}?after={made[1]}")
    assert ([job["id"] for job in page["data"]], page["has_more"]) == ([made[0]], False)
    for wrong in ("limit=0", "limit=x", "after=y"):
        assert client.ask("GET", f"{VIDEOS}?{wrong}")[0] in (400, 404)


def test_without_the_token_nothing_is_told(opened, served):
    client = served(opened(started=False), token="secret")
    for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret2"}):
        status, answer = client.ask("GET", VIDEOS, **given)
        assert (status, error_of(answer)["type"]) == (401, "authentication_error")
    assert client.ask("GET", VIDEOS, Authorization="Bearer secret")[0] == 200


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}])
def test_pages_of_other_sites_cannot_use_the_server(opened, served, headers):
    client = served(opened(started=False))
    status, answer = client.ask("POST", VIDEOS, {"prompt": "a cat"}, **headers)
    assert (status, error_of(answer)["type"]) == (403, "permission_error")


def test_an_address_that_others_reach_needs_a_token(monkeypatch):
    monkeypatch.delenv("OPENSORA_TOKEN", raising=False)
    with pytest.raises(UserError, match=r"host=0\.0\.0\.0 may be reached from other machines; give a token"):
        parse(ServeConfig, ["--host", "0.0.0.0"])
    parse(ServeConfig, ["--host", "::1"])
    monkeypatch.setenv("OPENSORA_TOKEN", "secret")
    assert parse(ServeConfig, ["--host", "0.0.0.0"]).listening.secret == "secret"


def test_a_port_that_is_taken_is_refused_in_one_sentence(opened, served, tmp_path):
    client = served(opened(started=False))
    config = parse(ServeConfig, ["--port", str(client.port), "--output_path", str(tmp_path / "other")])
    with pytest.raises(UserError, match=f"port={client.port} of 127.0.0.1 cannot be had"):
        start_server(None, config.listening)


def test_recipes_of_one_name_are_refused(tmp_path):
    recipe = tmp_path / "opensora_v1_2_sample.yaml"
    recipe.write_text("image_size: 64\n")
    config = parse(ServeConfig, ["--recipes", str(recipe), str(recipe), "--output_path", str(tmp_path / "out")])
    with pytest.raises(UserError, match="have the same name"):
        open_queue(config.making)
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(UserError, match=r'serving needs uvicorn; pip install "mindone\[web\]"'):
        serve(ServeConfig())
