"""Works on the table TABLE and writes OUTPUT; every row worked on leaves a line in LOG. Killed by tests."""

import os
import signal
import sys
import time
from functools import partial

from opensora.data_tools.table import open_table, process_rows


def work(row, log, seconds=0.0):
    with open(log, "a") as file:
        file.write(row["name"] + "\n")
    time.sleep(seconds)
    if row["name"] == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
    if row["name"] == "fails":
        raise ValueError("no such\nthing")
    return {"length": len(row["name"])}


if __name__ == "__main__":
    table, output, log, seconds, workers = sys.argv[1:]
    function = partial(work, log=log, seconds=float(seconds))
    process_rows(open_table(table), function, output, what="slow", adds=["length"], workers=int(workers))
