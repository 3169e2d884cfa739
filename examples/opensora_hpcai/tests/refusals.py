"""What a training says that cannot work."""

import pytest

from opensora.cli import enter


def refused(capsys, arguments):
    """The last line with which a training is refused; its exit code is 2."""
    with pytest.raises(SystemExit) as ended:
        enter("train", arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]
