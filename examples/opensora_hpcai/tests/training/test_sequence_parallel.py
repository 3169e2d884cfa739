"""Videos that are shared by ranks are trained and sampled as by one process."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mindone.config import parse
from mindone.errors import UserError
from mindone.parallel.exchange import held_of, part_of
from mindone.parallel.mesh import Mesh
from mindone.parallel.sequence import make_strategy
from opensora.config import GenerateConfig, TrainConfig
from opensora.families import settle
from opensora.models.mmdit import MMDiTConfig
from opensora.models.stdit3 import STDiT3Config
from opensora.sequence import shared_mesh, way_of

PATIENCE = 500
TRAINING = ["--csv_path", "a.csv", "--video_folder", "b", "--image_size", "8"]


def launched(folder, ranks, script, *flags):
    command = [sys.executable, "-m", "mindone.parallel.launch", "--nproc", str(ranks), "--log_dir", str(folder)]
    return subprocess.Popen(
        [*command, str(script), *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process):
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output[-3000:]


@pytest.mark.msrun
def test_output_gradients_and_training_are_those_of_one_process(tmp_path):
    finish(launched(tmp_path / "logs", 4, Path(__file__).with_name("sequence_script.py"), str(tmp_path / "found.json")))
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 5
    for name, differences in found.items():
        assert differences and max(differences.values()) < 1e-5, name


@pytest.mark.msrun
def test_keys_and_values_that_go_round_three_ranks_are_those_of_one_process(tmp_path):
    script, file = Path(__file__).with_name("ring_script.py"), tmp_path / "found.json"
    finish(launched(tmp_path / "logs", 3, script, str(file)))
    found = json.loads(file.read_text())
    assert list(found) == ["pynative", "graph"]
    for name, differences in found.items():
        assert set(differences) == {"loss", "output", "gradients"} and max(differences.values()) < 1e-5, name


def test_a_ring_is_taken_where_not_every_rank_has_a_head_or_if_asked_for():
    settings = parse(TrainConfig, [*TRAINING, "--enable_sequence_parallelism", "True"]).parallel
    joint, apart = MMDiTConfig(), STDiT3Config()
    assert [way_of(settings, joint, ranks) for ranks in (24, 25)] == ["ulysses", "ring"]
    assert way_of(settings, apart, 25) == "ulysses"
    for method in ("ring", "ulysses"):
        assert way_of(replace(settings, sequence_parallel_method=method), joint, 25) == method
    assert way_of(replace(settings, dsp=True), apart, 2) == "dsp"


def test_parts_follow_each_other_and_differ_by_one_at_most():
    for total in range(1, 9):
        for ranks in range(1, 6):
            parts = [part_of(total, ranks, rank) for rank in range(ranks)]
            assert sum(count for _, count in parts) == total
            assert [first for first, _ in parts] == list(np.cumsum([0, *[count for _, count in parts]])[:-1])
            assert max(count for _, count in parts) - min(count for _, count in parts) <= 1
            held = [held_of(total, ranks, rank) for rank in range(ranks)]
            assert all(count >= 1 and 0 <= first <= total - count for first, count in held)


def test_a_rank_with_samples_of_its_own_needs_no_strategy():
    assert make_strategy(Mesh(1, 2), "dsp") is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dsp", "True"], "start several by opensora launch --nproc N"),
        (["--enable_sequence_parallelism", "True", "--sequence_parallel_shards", "2"], "start several"),
        (["--sequence_parallel_shards", "2"], "sequence_parallel_shards=2 needs --enable_sequence_parallelism True"),
        (["--sequence_parallel_method", "ring"], "sequence_parallel_method=ring needs --enable_sequence_parallelism"),
        (["--sequence_parallel_method", "ring", "--dsp", "True"], "without --dsp"),
        (["--sequence_parallel_shards", "0"], "sequence_parallel_shards=0 has to be at least 1"),
    ],
)
def test_what_ranks_cannot_share_is_refused(flags, message):
    with pytest.raises(UserError, match=message):
        shared_mesh(parse(GenerateConfig, ["--image_size", "8", "8", "--num_frames", "4", *flags]).denoiser)


def test_dropout_of_adapters_and_dsp_without_frames_are_refused():
    training = [*TRAINING, "--dsp", "True"]
    adapter = ["--pretrained_model_path", "c", "--lora_rank", "4", "--lora_dropout", "0.1"]
    with pytest.raises(UserError, match="lora_dropout draws by tokens"):
        parse(TrainConfig, [*training, *adapter])
    with pytest.raises(UserError, match="dsp=True is not supported by model_version v2.0; use enable_sequence"):
        settle(parse(TrainConfig, training), "v2.0")


def test_a_ring_is_refused_before_version_2_0():
    ring = ["--enable_sequence_parallelism", "True", "--sequence_parallel_method", "ring"]
    with pytest.raises(
        UserError, match="sequence_parallel_method=ring is not supported by model_version v1.2; use uly"
    ):
        settle(parse(TrainConfig, [*TRAINING, *ring]), "v1.2")
