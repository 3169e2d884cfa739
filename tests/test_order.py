"""The files that start first are files of tests, and come before all others in the order they are listed in."""

from pathlib import Path

ROOT = Path(__file__).parent.parent


def slow_files(config):
    return config.pluginmanager.get_plugin(str(ROOT / "conftest.py")).SLOW_FILES


def test_every_file_that_starts_first_exists(pytestconfig):
    missing = [name for name in slow_files(pytestconfig) if not (ROOT / name).is_file()]
    assert not missing, f"SLOW_FILES in conftest.py names {missing}"


def test_slow_files_come_first_in_their_order(request):
    files = list(dict.fromkeys(item.path for item in request.session.items))
    slow = [ROOT / name for name in slow_files(request.config) if ROOT / name in files]
    assert files[: len(slow)] == slow
