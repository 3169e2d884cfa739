"""What MindSpore is told before it starts."""

import os
import subprocess
import sys

SCRIPT = """
import numpy as np
from mindone import runtime

ms = runtime.quiet_mindspore()
ms.set_context(mode=ms.GRAPH_MODE)

class Wrong(ms.nn.Cell):
    def construct(self, x):
        return ms.ops.matmul(x, x)

try:
    Wrong()(ms.Tensor(np.ones((2, 3), np.float32)))
except RuntimeError:
    raise SystemExit(7)
"""


def test_an_error_of_mindspore_leaves_nothing_in_the_current_folder(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "TMPDIR": str(tmp_path / "there")}
    environment.pop("MS_OM_PATH", None)
    command = [sys.executable, str(tmp_path / "script.py")]
    assert subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True).returncode == 7
    assert list((tmp_path / "here").iterdir()) == []
    assert list((tmp_path / "there").rglob("analyze_fail.ir"))


MEMORY = """
import numpy as np
from mindone import runtime

before = runtime.peak_memory()
held = np.ones(25_000_000)
del held
print(before, runtime.peak_memory() - before)
"""


def test_the_peak_of_memory_is_in_bytes_and_stays_when_memory_is_freed():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    before, grown = map(int, done.stdout.split())
    assert before > 10_000_000 and 190_000_000 < grown < 260_000_000
