"""Runs verbs that are killed in the middle, and again; prints a JSON object with what came of each.

``killed_verbs.py TASKS.json``: a list of [verb, flags, output]. Every run is a fork of this process. A verb runs
undisturbed, then killed by SIGKILL when it has kept some of its work, or where it has no journal, when it puts its
table in place; then once more.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from opensora import cli
from opensora.data_tools import caption, cut, index, scenes, score  # noqa: F401  what a fork need not import
from opensora.data_tools.journal import Journal

KEPT = 2
index.AT_ONCE = 1  # rows that are kept at once


def forked(verb, flags, answer=None, prepare=None):
    """Runs a verb in a fork; returns the signal that ended it, 0 for none."""
    process = os.fork()
    if process == 0:
        if prepare:
            prepare()
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        result = cli.open_door(f"data {verb}", flags, verb)
        if answer:
            Path(answer).write_text(json.dumps([getattr(result, "now", None), getattr(result, "before", None)]))
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    return status if os.WIFEXITED(status) else os.WTERMSIG(status)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_the_middle():
    """Ends the process after `KEPT` additions to a journal, or when a table is put in its place."""
    add, seen, replace = Journal.add, [], os.replace

    def counted(self, records):
        add(self, records)
        seen.append(1)
        if len(seen) == KEPT:
            die()

    def unless_table(source, target, **rest):
        if str(target).endswith("table.csv"):
            die()
        replace(source, target, **rest)

    Journal.add, os.replace = counted, unless_table


def outcome(verb, flags, output):
    answer, table = Path(f"{output}.answer"), Path(output)
    found = {"clean": forked(verb, flags)}
    whole = table.read_bytes()
    table.unlink()
    for made in table.parent.glob("clips*"):
        shutil.rmtree(made)
    found["killed"] = forked(verb, flags, prepare=die_in_the_middle)
    found["half"] = table.exists()
    found["again"] = forked(verb, flags, answer)
    found["same"] = table.read_bytes() == whole
    found["now"], found["before"] = json.loads(answer.read_text())
    found["left"] = sorted(path.name for path in table.parent.iterdir() if path.name.endswith(".journal"))
    return found


if __name__ == "__main__":
    tasks = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({verb: outcome(verb, flags, output) for verb, flags, output in tasks}))
