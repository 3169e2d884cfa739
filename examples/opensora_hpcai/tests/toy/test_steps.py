import json

import pytest

from mindone.errors import UserError
from opensora.toy.steps import Steps


@pytest.fixture
def calls():
    """What was done, and whether it was of other settings before."""
    return []


def done(folder, calls, settings="a", later="z", fails=False):
    """Two steps, the second after the first."""
    steps = Steps(folder)

    def run(name):
        def step(anew):
            calls.append((name, anew))
            if fails and name == "second":
                raise KeyboardInterrupt

        return step

    steps.do("first", settings, run("first"))
    steps.do("second", later, run("second"), after=["first"])
    return steps


def test_what_is_done_is_not_done_again(tmp_path, calls):
    steps = done(tmp_path / "out", calls)
    assert calls == [("first", False), ("second", False)] and set(steps.seconds()) == {"first", "second"}
    done(tmp_path / "out", calls)
    assert len(calls) == 2


def test_other_settings_of_a_step_do_it_and_what_depends_on_it_anew(tmp_path, calls):
    done(tmp_path / "out", calls)
    done(tmp_path / "out", calls, settings="b")
    assert calls[2:] == [("first", True), ("second", True)]
    done(tmp_path / "out", calls, settings="b", later="y")
    assert calls[4:] == [("second", True)]


def test_a_step_that_was_stopped_goes_on(tmp_path, calls):
    with pytest.raises(KeyboardInterrupt):
        done(tmp_path / "out", calls, fails=True)
    done(tmp_path / "out", calls)
    assert calls == [("first", False), ("second", False), ("second", False)]


def test_a_folder_may_be_moved(tmp_path, calls):
    done(tmp_path / "out", calls, settings=f"file: {tmp_path / 'out'}/a")
    (tmp_path / "out").rename(tmp_path / "moved")
    done(tmp_path / "moved", calls, settings=f"file: {tmp_path / 'moved'}/a")
    assert len(calls) == 2


@pytest.mark.parametrize("content", [{"first": 3}, {"first": {"seconds": 1}}])
def test_a_damaged_record_is_refused(tmp_path, content):
    (tmp_path / "steps.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is damaged; delete it"):
        Steps(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="give another folder"):
        Steps(tmp_path)
    with pytest.raises(UserError, match="is a file; give a folder"):
        Steps(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
