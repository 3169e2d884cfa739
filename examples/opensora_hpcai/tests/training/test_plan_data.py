"""``opensora plan-data``: what trains where, at what cost, and what is left out and why."""

import csv
import tracemalloc

import numpy as np
import pytest

from opensora.cli import enter
from opensora.config import PlanDataConfig
from opensora.models.mmdit import MMDIT_PRESETS
from opensora.models.stdit3 import STDiT3, STDiT3_PRESETS
from opensora.training import plan_data

BUCKETS = '{"256": {1: [1.0, 4], 51: [1.0, 2]}, "144p": {1: [1.0, 8], 51: [1.0, 4]}}'
KINDS = [
    *([1, 256, 256, ""],) * 9,
    *([60, 144, 256, 24],) * 10,
    *([60, 256, 256, 24],) * 4,
    *([40, 256, 256, 24],) * 3,
    *([60, 64, 64, 24],) * 2,
]


def write_table(path, kinds):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption", "num_frames", "height", "width", "fps"])
        writer.writerows([f"{number}.mp4", f"caption {number}", *kind] for number, kind in enumerate(kinds))


def run(folder, *more, buckets=BUCKETS):
    table = ["--csv_path", f"{folder}/table.csv", "--plan_path", f"{folder}/plan.csv", "--device_target", "CPU"]
    return enter("plan-data", [*table, "--bucket_config", buckets, *more])


@pytest.fixture
def folder(tmp_path):
    write_table(tmp_path / "table.csv", KINDS)
    return tmp_path


def batches(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def test_it_prints_what_fell_into_which_bucket_what_it_costs_and_what_was_left_out(folder, capsys):
    run(folder)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == "28 samples, 20 of them in 6 batches of 3 shapes"
    table = [line.split() for line in lines[4:7]]
    assert [line[:7] for line in table] == [
        ["256", "51", "1", "4", "2", "2", "0"],
        ["256", "1", "1", "9", "4", "2", "1"],
        ["144p", "51", "1", "10", "4", "2", "2"],
    ]
    assert sum(float(line[-1].removesuffix("%")) for line in table) == pytest.approx(100, abs=0.2)
    assert lines[8:12] == [
        "8 samples are left out:",
        "2 smaller than every resolution",
        "3 too short for every length of the resolutions that it is large enough for",
        "3 of buckets whose last batch is incomplete",
    ]
    assert lines[13].startswith("imbalance between ranks 0.0%; a step takes")


def test_the_plan_is_a_file_that_a_person_can_read(folder):
    path = run(folder, "--plan_ranks", "2")
    assert path.read_text().startswith("# plan ")
    found = batches(path)
    assert [int(batch["batch"]) for batch in found] == list(range(len(found)))
    for batch in found:
        kinds = [KINDS[int(sample)] for sample in batch["samples"].split()]
        assert all(kind[1:3] == [int(batch["height"]), int(batch["width"])] for kind in kinds)
        assert len(kinds) == {("1", "256"): 8, ("51", "256"): 4, ("51", "144"): 8}[batch["frames"], batch["height"]]


def test_the_same_plan_is_written_every_time_and_another_one_for_another_epoch(folder):
    first = run(folder).read_text()
    assert run(folder).read_text() == first
    assert run(folder, "--plan_epoch", "1").read_text() != first


def test_no_batch_at_all_names_the_buckets_and_what_they_lack(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        run(folder, "--plan_ranks", "9")
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "256, 1 frames, 256x256 has 9 of 36 samples and lacks 27" in message
    assert not (folder / "plan.csv").exists()


def test_a_fixed_size_has_no_plan_of_buckets(folder, capsys):
    with pytest.raises(SystemExit):
        run(folder, "--image_size", "256")
    assert "there are no buckets to plan; give bucket_config, and no fixed size" in capsys.readouterr().err


def test_version_2_0_plans_by_its_own_rules(folder, capsys):
    run(folder, "--model_version", "v2.0", "--fps_max", "12", buckets='{"256px": {1: [1.0, 3], 29: [1.0, 2]}}')
    assert "256px 29 " in " ".join(capsys.readouterr().out.split())
    (batch,) = {(batch["frames"], batch["height"], batch["width"]) for batch in batches(folder / "plan.csv")} - {
        ("1", "256", "256")
    }
    assert batch == ("29", "256", "256")


def test_a_large_table_needs_little_memory_and_all_its_samples_are_planned(tmp_path, capsys):
    rng = np.random.default_rng(0)
    count = 20_000
    kinds = [
        [int(frames), 144, 256, 24] for frames in np.where(rng.random(count) < 0.2, 1, rng.integers(60, 90, count))
    ]
    write_table(tmp_path / "table.csv", kinds)
    tracemalloc.start()
    run(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1500 * count
    samples = [int(sample) for batch in batches(tmp_path / "plan.csv") for sample in batch["samples"].split()]
    assert len(set(samples)) == len(samples) > count - 16


def test_operations_are_those_of_the_matrices_and_of_attention():
    config = STDiT3_PRESETS["STDiT3-XL/2"]
    width, tokens, text = config.hidden_size, 15 * 256, 300
    with plan_data.runtime.lazy_parameters():
        network = STDiT3(config)
    blocks = {name: p for name, p in network.parameters_and_names() if "blocks." in name and p.ndim == 2}
    of_text = sum(np.prod(p.shape) for name, p in blocks.items() if "kv_linear" in name)
    matrices = sum(np.prod(p.shape) for name, p in blocks.items() if "table" not in name) - of_text
    attention = 4 * width * config.depth * (15 * 256**2 + 256 * 15**2 + 2 * tokens * text)
    expected = 2 * (matrices * tokens + of_text * text) + attention
    assert config.forward_flops((15, 32, 32), text) == pytest.approx(expected, rel=1e-9)
    # a published estimate counts 6 operations per parameter and token, those of modulation included
    estimate = 7.6e14
    assert 3 * MMDIT_PRESETS["MMDiT-11B"].forward_flops((33, 24, 42), 512) == pytest.approx(estimate, rel=0.4)


def test_the_settings_of_a_training_are_all_understood():
    assert PlanDataConfig().train.batch_size == 10
