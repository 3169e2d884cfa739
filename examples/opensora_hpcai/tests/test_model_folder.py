import json

import pytest

from mindone.checkpoint import RunCheckpoints
from mindone.errors import UserError
from opensora.model_folder import read_config, require_path


def test_runs_and_steps_stand_for_their_model_and_its_config(tmp_path):
    writers = {f"{name}/config.json": json.dumps({"of": name}).encode() for name in ("model", "ema")}
    step = RunCheckpoints(tmp_path / "run" / "ckpt").save(130, writers).path
    for place in (tmp_path / "run", tmp_path / "run" / "ckpt", step):
        assert require_path(place, "the denoiser's weights", "ckpt_path") == step / "ema"
        assert read_config(place) == {"of": "ema"}
    assert require_path(step / "model", "the denoiser's weights", "ckpt_path") == step / "model"
    assert read_config(step / "model") == {"of": "model"}


def test_a_path_that_is_not_given_or_leads_nowhere_is_refused(tmp_path):
    with pytest.raises(UserError, match="--ckpt_path FOLDER_OR_FILE"):
        require_path(None, "the denoiser's weights", "ckpt_path")
    with pytest.raises(UserError, match="set ckpt_path to a folder or file that exists"):
        require_path(tmp_path / "nothing", "the denoiser's weights", "ckpt_path")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "only a pointer of Git LFS"),
        (b"[1]", "not a model configuration in readable JSON .it is no object"),
        (b"[" * 100_000, "not a model configuration in readable JSON"),
        (b"\xff", "not a model configuration in readable JSON"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused_with_the_reason(tmp_path, content, reason):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_config(tmp_path)
