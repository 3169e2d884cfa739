import json
import subprocess
import sys
from pathlib import Path

import pytest

GIGABYTE = 1 << 30


@pytest.mark.slow
def test_hostile_files_are_refused_in_one_line_and_with_little_memory(tmp_path):
    """In a process of its own, whose memory is limited: what is read must not depend on what a file promises."""
    command = [sys.executable, Path(__file__).with_name("hostile.py"), tmp_path]
    subprocess.run(command, check=True, timeout=500)
    results = json.loads((tmp_path / "result.json").read_text())
    assert len(results) > 1000
    for result in results:
        assert "raised" not in result, result
        assert result["seconds"] < 60, result
        by_hand = Path(result["path"]).parent.name == "hand"
        assert "refused" in result or not by_hand, result
        message = result.get("refused", "x")
        assert message.isprintable(), result
        assert len(message) < 700 + len(result["path"]), result
    assert max(result["peak"] for result in results) < GIGABYTE
    assert sum("tensors" in result for result in results) > 5
