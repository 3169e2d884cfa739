"""``opensora doctor`` and ``opensora validate``: every finding says what is wrong and what to do."""

import pytest

from mindone.errors import UserError
from opensora.checkup import doctor
from opensora.cli import open_door

TINY = "configs/tiny/opensora_v1_2_sample.yaml"


@pytest.fixture
def in_example(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath / "examples/opensora_hpcai")


def validate(*argv):
    return open_door("validate", list(argv), "opensora validate")


def marks(text):
    return {tuple(line.split()[:2]) for line in text.splitlines() if line.strip()}


def test_a_sampling_recipe_whose_weights_fit_is_right(in_example, capsys):
    validate("--config", TINY, "--captions", "a red circle moves left", "--device_target", "CPU")
    found = marks(capsys.readouterr().out)
    assert {("ok", "weights"), ("ok", "autoencoder"), ("ok", "text"), ("ok", "memory")} <= found
    assert not any(mark == "wrong" for mark, _ in found)


def test_weights_of_another_network_are_named_without_loading(in_example, capsys):
    with pytest.raises(UserError, match="findings are wrong: weights"):
        validate(
            *("--config", TINY, "--captions", "x", "--device_target", "CPU"),
            *("--denoiser_config", "{depth: 1}"),
        )
    assert "does not fit the network" in capsys.readouterr().out


def test_a_training_without_its_table_names_every_missing_thing(in_example, tmp_path, capsys):
    with pytest.raises(UserError, match="findings are wrong"):
        validate(
            *("--config", "configs/tiny/opensora_v1_2_train.yaml", "--device_target", "CPU"),
            *("--csv_path", str(tmp_path / "absent.csv"), "--text_embed_folder", str(tmp_path / "absent")),
        )
    assert {("wrong", "text"), ("wrong", "data"), ("ok", "autoencoder")} <= marks(capsys.readouterr().out)


def test_an_unknown_key_is_refused(in_example):
    with pytest.raises(UserError, match="captoins"):
        validate("--config", TINY, "--captoins", "x")


def test_a_hub_that_is_no_address_is_wrong(monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror")
    report = doctor.Report()
    doctor.hub(report)
    assert report.findings[0].mark == "wrong" and "https://hf-mirror.com" in report.findings[0].text
    with pytest.raises(UserError, match="1 of 1 findings are wrong: hub"):
        report.require_right("this machine")
