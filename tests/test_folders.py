import pytest

from mindone.errors import UserError
from mindone.folders import make_run_folder


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be created"):
        make_run_folder(tmp_path / "file", "run")
