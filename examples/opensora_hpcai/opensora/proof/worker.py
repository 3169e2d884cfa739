"""What `prove` starts as one process or as several: a command of the table of doors, and the memory that it took.

``worker.py FILE``: JSON with ``door``, ``settings`` and ``report``. When the command has ended, ``REPORT.RANK`` gets
the peak of the process' memory in bytes.
"""

import json
import sys
from pathlib import Path

from mindone import runtime
from opensora.cli import enter

if __name__ == "__main__":
    command = json.loads(Path(sys.argv[1]).read_text())
    enter(command["door"], command["settings"])
    Path(f"{command['report']}.{runtime.current().rank}").write_text(str(runtime.peak_memory()))
