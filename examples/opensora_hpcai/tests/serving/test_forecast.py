"""What a video would take, before anything is made."""

import pytest
from serving_world import RECIPE

from mindone.errors import UserError
from opensora.costs.sampling import rounded
from opensora.serving.forecast import forecast_of
from opensora.serving.settings import command_line


def forecast(tmp_path, **settings):
    own = {"captions": ["a red circle"], "output_path": str(tmp_path / "out"), **settings}
    return forecast_of(command_line(RECIPE, own))


def test_time_follows_steps_and_length_and_nothing_is_written(tmp_path):
    few = forecast(tmp_path, sampling_steps=5)
    assert (few["size"], few["text"].startswith("17 frames of 64x64: about ")) == ([17, 64, 64], True)
    more = forecast(tmp_path, sampling_steps=10)
    assert more["seconds"]["denoise"] == pytest.approx(2 * few["seconds"]["denoise"])
    assert more["seconds"]["decode"] == pytest.approx(few["seconds"]["decode"])
    long = forecast(tmp_path, sampling_steps=5, num_frames=34)
    assert long["seconds"]["decode"] == pytest.approx(2 * few["seconds"]["decode"])
    assert long["peak_bytes"] >= few["peak_bytes"]
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_made_is_refused_by_its_forecast(tmp_path):
    with pytest.raises(UserError, match="image_size=60x60"):
        forecast(tmp_path, image_size=[60, 60])


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (119, "119 s"), (180, "3 min"), (10800, "3 h")])
def test_times_are_said_in_a_unit_that_fits(seconds, text):
    assert rounded(seconds) == f"about {text}"
