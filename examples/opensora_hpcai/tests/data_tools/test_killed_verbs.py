"""Every verb, killed in the middle and started again: the same table, and nothing is done twice."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindone.data.write import write_video
from opensora.toy.endpoint import serving

SCRIPT = Path(__file__).with_name("killed_verbs.py")
FILMS = 4
# Verbs that open videos, and keep what they have done of each.
KEEP = ("index", "scenes", "cut", "score", "camera", "caption")


def tasks(folder, address):
    """The verbs in an order in which each has the table that it needs."""
    films, tables = str(folder / "films"), {}

    def task(name, table, **settings):
        tables[name] = str(folder / name / "table.csv")
        (folder / name).mkdir()
        given = {"output": tables[name], **({"table": tables[table]} if table else {}), **settings}
        flags = [word for key, value in given.items() for word in (f"--{key}", *str(value).split("|"))]
        return name, flags, tables[name]

    root = {"video_folder": films, "workers": 0}
    return [
        task("index", None, inputs=films, probe="all", **root),
        task("scenes", "index", **root),
        task("cut", "scenes", output_folder=folder / "cut" / "clips", min_seconds=0.1, shorter_side=32, **root),
        task("score", "index", scores="blur|motion|phash", **root),
        task("camera", "index", **root),
        task("caption", "index", video_folder=films, endpoint=address, model="stub", workers=1),
        task("duplicates", "score"),
        task("filter", "score", where="blur >= 0", rejected=folder / "filter" / "rejected.csv"),
        task("sample", "score", shuffle=True),
    ]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    pytest.importorskip("scenedetect")
    folder = tmp_path_factory.mktemp("killed")
    (folder / "films").mkdir()
    rng = np.random.default_rng(0)
    for number in range(FILMS):
        picture = rng.integers(0, 256, (48, 64, 3), np.uint8)
        video = np.stack([np.roll(picture, at, axis=1) for at in range(10)])
        write_video(folder / "films" / f"{number}.mp4", video, 8)
    with serving() as server:
        server.reply = lambda number, body: (200, "a picture that moves")
        (folder / "tasks.json").write_text(json.dumps(tasks(folder, server.address)))
        command = [sys.executable, SCRIPT, folder / "tasks.json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), len(server.asked)


@pytest.mark.parametrize("verb", [*KEEP, "duplicates", "filter", "sample"])
def test_a_killed_verb_gives_the_same_table_when_it_is_started_again(outcomes, verb):
    found = outcomes[0][verb]
    assert (found["clean"], found["killed"], found["again"]) == (0, signal.SIGKILL, 0)
    assert not found["half"] and found["same"] and found["left"] == []


@pytest.mark.parametrize("verb", KEEP)
def test_what_was_done_is_not_done_again(outcomes, verb):
    found = outcomes[0][verb]
    assert found["before"] >= 2 and found["now"] == FILMS - found["before"]


def test_only_the_question_that_was_under_way_is_asked_again(outcomes):
    # once for each film undisturbed, and once more for each with a kill in between
    assert 0 <= outcomes[1] - 2 * FILMS <= 1
