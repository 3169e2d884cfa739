import runpy
import sys
from pathlib import Path

import pytest

# Helpers of several test files stand here; whatever way pytest imports those, they find them by name.
sys.path.append(str(Path(__file__).parent))

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def tool(monkeypatch):
    """Runs a script of ``tools``, by its name, with arguments as a command line gives them."""

    def load(name):
        def run(*arguments):
            monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
            runpy.run_path(str(TOOLS / f"{name}.py"), run_name="__main__")

        return run

    return load
