import io
import sys

import pytest

from mindone.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "least", "most"), [(io.StringIO, 1, 3), (Terminal, 20, 10_000)])
def test_a_bar_is_redrawn_on_a_terminal_and_seldom_written_to_a_file(monkeypatch, stream, least, most):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr("mindone.progress.SECONDS_ON_TERMINAL", 0)
    assert list(progress_bar("count", range(200))) == list(range(200))
    states = sys.stderr.getvalue().split("\r")
    assert least <= len([state for state in states if "count" in state]) <= most
    assert "200/200" in states[-1] and sys.stderr.getvalue().endswith("\n")


def test_a_hidden_bar_writes_nothing(capsys):
    bar = progress_bar("count", total=3, shown=False)
    bar.update(3)
    bar.close()
    assert capsys.readouterr() == ("", "")


def test_the_environment_may_say_how_often(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    list(progress_bar("count", range(200)))
    assert len(sys.stderr.getvalue().split("\r")) > 20
