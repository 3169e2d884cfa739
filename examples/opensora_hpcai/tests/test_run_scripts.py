"""The run scripts print, and would run, commands that the settings understand."""

import shlex
import subprocess
from pathlib import Path

import pytest

from mindone.config import check, load
from opensora import families
from opensora.config import DecodeConfig, EmbedTextConfig, EmbedVideoConfig, GenerateConfig, TrainConfig

FOLDER = Path(__file__).parents[1] / "scripts" / "run"
SCRIPTS = sorted(path for path in FOLDER.glob("*.sh") if path.name != "launch.sh")
SCHEMAS = {
    "inference.py": GenerateConfig,
    "train.py": TrainConfig,
    "infer_t5.py": EmbedTextConfig,
    "infer_vae.py": EmbedVideoConfig,
    "infer_vae_decode.py": DecodeConfig,
}


def dry_run(script: Path, folder: Path, *flags: str, **variables: str) -> list[list[str]]:
    """The words of every command that a script would run if it were called from ``folder``."""
    environment = {"PATH": "/usr/bin:/bin", "DRY_RUN": "1", "MASTER_ADDR": "10.0.0.1", "NODE_RANK": "1", **variables}
    command = ["bash", str(script), *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return [shlex.split(line) for line in done.stdout.splitlines()]


def settings_of(command: list[str]):
    """The settings of a command, after all checks that it makes before it looks at any file."""
    script = next(i for i, word in enumerate(command) if word.endswith(".py"))
    config = load(SCHEMAS[Path(command[script]).name], command[script + 1 :])
    check(config)
    group = config.denoiser if isinstance(config, GenerateConfig) else config.model
    return families.settle(config, group.model_version)[1]


@pytest.mark.parametrize("script", [*SCRIPTS, FOLDER / "launch.sh"], ids=lambda path: path.stem)
def test_a_script_is_valid(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_what_it_does_and_stops_at_the_first_failure(script):
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# ")
    assert any(f"bash scripts/run/{script.name}" in line for line in lines)
    assert "set -euo pipefail" in lines


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_from_any_folder_and_its_settings_can_work(script, tmp_path):
    commands = dry_run(script, tmp_path)
    assert commands
    for command in commands:
        assert Path(next(word for word in command if word.endswith(".py"))).is_file()
        settings_of(command)


def test_one_device_needs_no_launcher_and_more_join_in(tmp_path):
    script = FOLDER / "run_infer_os_v1.2_t2v_parallel.sh"
    (alone,) = dry_run(script, tmp_path, NPUS="1")
    assert alone[0] == "python"
    assert not settings_of(alone).runtime.use_parallel
    (four,) = dry_run(script, tmp_path, "--seed", "7", NPUS="4", OUTPUT="with space")
    assert four[:6] == ["opensora", "launch", "--nproc", "4", "--bind_core", "True"]
    assert four[6:8] == ["--log_dir", "with space/launch"]
    config = settings_of(four)
    assert (config.runtime.use_parallel, config.runtime.seed) == (True, 7)
    assert config.output.output_path == "with space"


def test_several_machines_find_the_first_one(tmp_path):
    (first,) = dry_run(FOLDER / "run_train_os1.2_multi-node_master.sh", tmp_path, NODES="3")
    (second,) = dry_run(FOLDER / "run_train_os1.2_multi-node_slave.sh", tmp_path, NODES="3")
    for number, command in enumerate((first, second)):
        assert command[:4] == ["opensora", "launch", "--nproc", "8"]
        options = dict(zip(command[2::2], command[3::2]))
        found = {name: options[f"--{name}"] for name in ("nodes", "node_rank", "master_addr", "master_port")}
        assert found == {"nodes": "3", "node_rank": str(number), "master_addr": "10.0.0.1", "master_port": "8118"}
