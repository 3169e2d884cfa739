import pytest

from mindone.errors import UserError
from opensora.data.aspect import (
    ASPECT_NAMES,
    ASPECT_TABLES,
    PIXELS,
    aspect_table_2_0,
    closest_ratio,
    closest_ratio_2_0,
    named_size,
    named_size_2_0,
    parse_num_frames,
    pixels_2_0,
)


def test_aspect_names_are_height_to_width():
    assert named_size("720p", "9:16") == (720, 1280)
    assert named_size("720p", "16:9") == (1280, 720)
    assert named_size("240p", "9:16") == (240, 426)
    assert named_size("256", "12:25") == (176, 368)


def test_every_size_is_near_its_pixel_budget_and_its_ratio():
    for name, table in ASPECT_TABLES.items():
        for key, (height, width) in table.items():
            assert abs(height * width / PIXELS[name] - 1) < 0.14, (name, key)
            assert abs(height / width - float(key)) < 0.03 * float(key) + 0.01, (name, key)


def test_video_tables_have_all_names_and_image_tables_are_multiples_of_sixteen():
    assert set(ASPECT_TABLES) == set(PIXELS)
    for name, table in ASPECT_TABLES.items():
        if name in ("256", "512", "1024", "2048", "2880"):
            assert len(table) == 40
            assert all(side % 16 == 0 for size in table.values() for side in size)
        else:
            assert list(table) == list(ASPECT_NAMES.values())


def test_closest_ratio_compares_height_over_width():
    assert closest_ratio(1080, 1920, "240p") == "0.56"
    assert closest_ratio(500, 500, "480p") == "1.00"


@pytest.mark.parametrize(("given", "frames"), [("4s", 102), ("2x", 102), ("51", 51), (17, 17), ("32s", 816)])
def test_lengths_have_names(given, frames):
    assert parse_num_frames(given) == frames


@pytest.mark.parametrize("given", ["3s", "0", "-1", "1.5", "", "many"])
def test_a_length_that_is_none_is_refused(given):
    with pytest.raises(UserError, match="num_frames"):
        parse_num_frames(given)


def test_unknown_sizes_are_refused_with_the_known_ones():
    with pytest.raises(UserError, match="720p"):
        named_size("721p", "9:16")
    with pytest.raises(UserError, match="9:16"):
        named_size("720p", "10:16")
    with pytest.raises(UserError, match="12:25"):
        named_size("256", "9:16")


@pytest.mark.golden("data_v11_aspect_ratios", "data_v12_aspect_ratios")
def test_tables_and_closest_ratios_are_those_of_the_original(golden_case):
    sidecar = golden_case.sidecar
    for name, table in sidecar["tables"].items():
        assert PIXELS[name] == table["pixels"]
        ours = {key: list(size) for key, size in ASPECT_TABLES[name].items()}
        assert {float(key): size for key, size in ours.items()} == {
            float(key): size for key, size in table["ratios"].items()
        }, name
    for name, height, width, key in sidecar["closest_ratio"]["rows"]:
        assert float(closest_ratio(height, width, name)) == float(key), (name, height, width)
    for name, key in sidecar.get("ratio_names", {}).items():
        assert ASPECT_NAMES[name] == key
    for name, ratio, size in sidecar.get("image_size", ()):
        assert list(named_size(name, ratio)) == size
    for text, frames in sidecar.get("num_frames", ()):
        assert parse_num_frames(text) == frames


@pytest.mark.golden("data_v20_aspect_ratios")
def test_tables_of_2_0_are_those_of_the_original(golden_case):
    sidecar = golden_case.sidecar
    for grid, tables in sidecar["tables"].items():
        for name, table in tables.items():
            assert pixels_2_0(name) == table["pixels"]
            for kind in ("training", "inference"):
                ours = aspect_table_2_0(name, kind == "training", int(grid.removeprefix("grid_")))
                if kind in table:
                    assert {key: list(size) for key, size in ours.items()} == table[kind], (grid, name, kind)
    for name, height, width, key in sidecar["closest_ratio"]["rows"]:
        assert closest_ratio_2_0(height, width, name) == key
    for name, ratio, training, size in sidecar["image_size"]["rows"]:
        assert list(named_size_2_0(name, ratio, training)) == size


@pytest.mark.parametrize("resolution", ["720", "px", "256px_ar7:5", "256px_min"])
def test_unknown_resolutions_of_2_0_are_refused(resolution):
    with pytest.raises(UserError, match="resolution="):
        aspect_table_2_0(resolution)
