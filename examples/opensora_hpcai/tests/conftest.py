import importlib.util
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def tool(monkeypatch):
    """The main function of a script in ``tools``, by the script's name; it takes arguments as a command line does."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"opensora_tools_{name.replace('.', '_')}", TOOLS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return lambda *arguments: module.main([str(argument) for argument in arguments])

    return load
