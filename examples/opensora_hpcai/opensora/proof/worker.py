"""What `prove` starts as one process or as several: a command of the table of doors, and the memory that it took.

``worker.py REPORT COMMAND ...``: ``REPORT.RANK`` gets the peak of the process' memory in bytes.
"""

import sys
from pathlib import Path

from mindone import runtime
from opensora.cli import enter

if __name__ == "__main__":
    report, command = sys.argv[1:3]
    enter(command, sys.argv[3:])
    Path(f"{report}.{runtime.current().rank}").write_text(str(runtime.peak_memory()))
