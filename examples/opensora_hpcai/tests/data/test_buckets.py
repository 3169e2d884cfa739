"""Which bucket a sample falls into, by the rules of every version."""

import numpy as np
import pytest

from mindone.data.metadata import Metadata
from mindone.errors import UserError
from opensora.data import buckets
from opensora.data.buckets import rules_1, rules_2_0, sampling_intervals


def metadata(rows):
    """Of (frames, height, width) or (frames, height, width, fps)."""
    columns = [np.array(column) for column in zip(*rows)]
    frames, height, width = (column.astype(np.int32) for column in columns[:3])
    fps = columns[3].astype(np.float32) if len(columns) > 3 else np.zeros(len(rows), np.float32)
    return Metadata(frames, height, width, fps)


def typed(config):
    return {name: {int(frames): entry for frames, entry in lengths.items()} for name, lengths in config.items()}


def never(number, what, rows):
    raise AssertionError(f"drew {what} of {number}")


def names_of(rules, found):
    named = [rules.buckets[number] if number >= 0 else None for number in found]
    return [bucket and [bucket.resolution, bucket.size[0], bucket.ratio] for bucket in named]


def check(rules, found, rows):
    """Rows end with the expected bucket, size and batch size."""
    for number, row in zip(found, rows):
        name, size, batch_size = row[-3:]
        bucket = rules.buckets[number] if number >= 0 else None
        ours = bucket and [bucket.resolution, bucket.size[0], bucket.ratio]
        assert ours == name, row
        if bucket:
            assert (list(bucket.size), bucket.batch_size) == (size, batch_size), row


class PerSample:
    """Numbers of a generator per sample, or per sample and bucket, as the originals draw them."""

    def __init__(self, seeds, per_bucket):
        self.seeds, self.per_bucket, self.generators = seeds, per_bucket, {}

    def __call__(self, number, what, rows):
        return np.array([self._generator(row, number).random() for row in rows])

    def _generator(self, row, number):
        offset = number if self.per_bucket else 0
        return self.generators.setdefault((row, offset), np.random.default_rng(self.seeds[row] + offset))


@pytest.mark.golden("data_v11_buckets", "data_v12_buckets", "data_v20_buckets")
def test_every_sample_falls_into_the_bucket_of_the_original(golden_case):
    is_2_0 = "v20" in golden_case.stem
    groups = [*golden_case.sidecar["deterministic"], *golden_case.sidecar.get("seeded", ())]
    for group in groups:
        config, rows = typed(group["bucket_config"]), group["rows"]
        rules = rules_2_0(config) if is_2_0 else rules_1(config)
        assert len(rules.buckets) == group["num_buckets"]
        known = metadata([(*row[:3], row[3] or 0) for row in rows])
        if is_2_0:
            interval = np.array([sampling_intervals(np.array([row[3] or 0]), row[4])[0] for row in rows])
        else:
            interval = np.array([row[3] for row in rows])
        seeds = [row[5 if is_2_0 else 4] for row in rows]
        check(rules, rules.fit(known, interval).assign(PerSample(seeds, per_bucket=not is_2_0)), rows)


@pytest.mark.golden("data_v20_buckets")
def test_frame_rates_are_brought_below_the_limit_as_in_the_original(golden_case):
    for fps, fps_max, new_fps, interval in golden_case.sidecar["target_fps"]["rows"]:
        (ours,) = sampling_intervals(np.array([fps or np.nan]), fps_max)
        assert ours == interval
        assert int(new_fps) == (int(fps // interval) if fps else 0)


def uniform(number, what, rows):
    return np.random.default_rng([number, what == "keep"]).random(1000)[rows]


def test_a_video_goes_to_the_largest_resolution_and_the_longest_length_that_it_has():
    rules = rules_1({"144p": {1: [1.0, 8], 16: [1.0, 2]}, "256": {16: [1.0, 3], 32: [1.0, 1]}})
    rows = [(33, 256, 256), (32, 256, 256), (17, 144, 256), (16, 256, 256), (1, 512, 512), (99, 64, 64)]
    found = rules.fit(metadata(rows)).assign(never)
    assert names_of(rules, found) == [
        *(["256", 32, "1.0"], ["256", 16, "1.0"], ["144p", 16, "0.56"]),
        *(None, ["144p", 1, "1.00"], None),
    ]


def test_a_stride_makes_videos_shorter():
    rules = rules_1({"256": {16: [1.0, 3]}})
    found = rules.fit(metadata([(48, 256, 256), (49, 256, 256)]), 3).assign(never)
    assert list(found >= 0) == [False, True]


def test_chances_are_those_of_the_config():
    rules = rules_1({"256": {16: [0.25, 3], 32: [[0.5, 0.3], 1]}, "144p": {16: [1.0, 1]}})
    found = rules.fit(metadata([(64, 256, 256)] * 1000)).assign(uniform)
    share = {tuple(name[:2]): 0 for name in names_of(rules, found)}
    for name in names_of(rules, found):
        share[tuple(name[:2])] += 1e-3
    assert share[("256", 32)] == pytest.approx(0.15, abs=0.03)
    assert share[("256", 16)] == pytest.approx(0.7 * 0.25, abs=0.03)


def test_what_has_no_bucket_has_a_reason():
    rules = rules_1({"256": {16: [1.0, 3]}, "144p": {16: [1.0, 3]}, "720p": {16: [0.0, 0]}})
    rows = [(0, 0, 0), (99, 32, 32), (1, 256, 256), (16, 256, 256), (17, 256, 256)]
    fitted = rules.fit(metadata(rows))
    reasons = fitted.reasons(fitted.assign(never))
    assert {reason: list(rows) for reason, rows in reasons.items()} == {
        buckets.UNREADABLE: [0],
        buckets.TOO_SMALL: [1],
        buckets.NO_PICTURES: [2],
        buckets.TOO_SHORT: [3],
    }
    fitted = rules_1({"256": {16: [0.5, 3]}}).fit(metadata([(17, 256, 256)] * 1000))
    assert len(fitted.reasons(fitted.assign(uniform))[buckets.BY_CHANCE]) == pytest.approx(500, abs=50)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"257": {1: [1.0, 2]}}, "resolution=257 is not known"),
        ({"60x64": {1: [1.0, 2]}}, "resolution=60x64: height and width have to be multiples of 8"),
        ({"256": {1: 2}}, "bucket_config.256.1=2 has to be [probability, batch size]"),
        ({"256": {1: [1.5, 2]}}, "a probability is a number from 0 to 1"),
        ({"256": {1: [[1.0, 0.5, 0.5], 2]}}, "or a pair of them"),
        ({"256": {1: [1.0, 0]}}, "frames and batch size have to be whole numbers of at least 1"),
        ({"256": {0: [1.0, 1]}}, "frames and batch size have to be whole numbers of at least 1"),
        ({"256": {1: [0.0, None]}}, "bucket_config has no bucket with a probability above 0"),
    ],
)
def test_configs_that_cannot_work_are_refused_in_one_sentence(config, message):
    with pytest.raises(UserError) as refusal:
        rules_1(config)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("rules_of", [rules_1, rules_2_0])
def test_a_bucket_can_name_one_size(rules_of):
    rules = rules_of({"64x96": {16: [1.0, 3]}, "48x48": {1: [1.0, 2], 16: [1.0, 4]}})
    rows = [(33, 128, 192), (33, 64, 90), (33, 48, 48), (1, 64, 96), (33, 40, 40)]
    found = rules.fit(metadata(rows)).assign(never)
    sizes = [rules.buckets[number].size if number >= 0 else None for number in found]
    assert sizes == [(16, 64, 96), (16, 64, 96), (16, 48, 48), (1, 48, 48), None]
