"""``opensora data caption``, against a model on the loopback that really looks at the pictures it is sent."""

import csv
import json
import re
import time

import pytest

from mindone.data.write import write_video
from opensora.cli import enter
from opensora.data_tools import caption
from opensora.data_tools.caption import cleaned
from opensora.text.endpoint import KEY
from opensora.toy import world
from opensora.toy.endpoint import look, right, serving

CLIPS = 4


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(KEY, "a-key")
    monkeypatch.setattr(caption, "FIRST_WAIT", 0.01)
    with serving() as server:
        yield server


@pytest.fixture
def films(tmp_path):
    """A table of toy clips without captions, one that has one, and one that is broken; and what they show."""
    shown = []
    with open(tmp_path / "t.csv", "w", newline="") as file:
        write = csv.writer(file).writerow
        write(["video", "caption"])
        for number in range(CLIPS):
            clip = world.clip(5, number)
            write_video(tmp_path / f"{number}.mp4", clip.frames, 8, 12)
            shown.append(clip.scene)
            write([f"{number}.mp4", ""])
        write(["0.mp4", "my own words"])
        (tmp_path / "broken.mp4").write_bytes(b"no film")
        write(["broken.mp4", ""])
    return tmp_path, shown


def run(folder, service, *flags, table="t.csv", output="out.csv"):
    where = ["--table", str(folder / table), "--output", str(folder / output), "--endpoint", service.address]
    enter("data caption", [*where, "--model", "small", "--workers", "3", *flags])
    with open(folder / output, newline="") as file:
        return list(csv.DictReader(file))


def test_captions_say_what_the_clips_show(films, service, capsys):
    folder, shown = films
    rows = run(folder, service, "--price_in", "2", "--price_out", "10", "--template", "short")
    assert all(right(row, scene) and row["caption"].startswith("A ") for row, scene in zip(rows, shown))
    assert rows[CLIPS]["caption"] == "my own words" and len(service.asked) == CLIPS
    assert rows[-1]["problem"].startswith("caption: ") and "broken.mp4 is not a readable video" in rows[-1]["problem"]
    key, body = service.asked[0]
    assert key == "Bearer a-key" and body["model"] == "small" and len(body["messages"][0]["content"]) == 4
    out = capsys.readouterr().out
    assert "400 tokens read, 40 written; cost 0.0012" in out and "a-key" not in out


def test_an_endpoint_that_fails_every_third_call_costs_no_caption(films, service):
    folder, shown = films
    right_answer = service.reply
    service.reply = lambda number, body: (503, "") if number % 3 == 0 else right_answer(number, body)
    rows = run(folder, service)
    assert all(right(row, scene) for row, scene in zip(rows, shown)) and len(service.asked) > CLIPS


def test_an_endpoint_that_hangs_ends_in_problems_that_a_retry_cures(films, service):
    folder, shown = films
    answer = service.reply
    service.reply = lambda number, body: (time.sleep(1.5), answer(number, body))[1]
    rows = run(folder, service, "--timeout", "0.3", "--retries", "0")
    assert all("timed out" in row["problem"] and not row["caption"] for row in rows[:CLIPS])
    service.reply = answer
    rows = run(folder, service, "--retry", "True", table="out.csv", output="again.csv")
    assert all(right(row, scene) and not row["problem"] for row, scene in zip(rows, shown))


def test_a_refused_key_stops_and_keeps_what_is_done(films, service, capsys):
    folder, shown = films
    answer = service.reply
    service.reply = lambda number, body: (401, "") if number > 2 else answer(number, body)
    with pytest.raises(SystemExit):
        run(folder, service, "--workers", "1")
    assert f"HTTP 401 Unauthorized; set {KEY}" in capsys.readouterr().err
    service.reply, service.asked[:] = answer, []
    rows = run(folder, service)
    assert all(right(row, scene) for row, scene in zip(rows, shown)) and len(service.asked) == CLIPS - 2


def test_an_endpoint_that_is_gone_stops_and_nothing_is_taken_for_done(films, service, monkeypatch, capsys):
    folder, shown = films
    monkeypatch.setattr(caption, "MOST_FAILURES", 2)
    answer = service.reply
    service.reply = lambda number, body: (500, "")
    with pytest.raises(SystemExit):
        run(folder, service, "--retries", "0")
    # Two, and what was asked meanwhile.
    assert re.search(r"[2-9] videos in a row got no answer", capsys.readouterr().err)
    service.reply = answer
    assert all(right(row, scene) for row, scene in zip(run(folder, service), shown))


def test_structured_captions_become_columns(films, service):
    folder, shown = films
    words = {"subject": "a shape", "action": "moves", "setting": "dark", "camera": "static", "style": "plain"}
    service.reply = lambda number, body: (200, f"```json\n{json.dumps({'caption': look(body), **words})}\n```")
    rows = run(folder, service, "--template", "structured")
    assert right(rows[0], shown[0]) and rows[0]["caption_camera"] == "static"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The video shows a cat.", "A cat."),
        ("In this video, we see a dog", "A dog"),
        ('"This clip depicts rain"', "Rain"),
        ("Here is a caption for the video: A boat.", "A boat."),
        ("A video game on a screen.", "A video game on a screen."),
        ("Shows of hands.", "Shows of hands."),
    ],
)
def test_a_caption_begins_with_what_is_to_be_seen(text, expected):
    assert cleaned(text) == expected


def test_a_cut_off_sentence_is_left_out():
    assert cleaned("A cat sleeps. It dreams of", is_cut=True) == "A cat sleeps."
    assert cleaned("A cat that", is_cut=True) == "A cat that"
