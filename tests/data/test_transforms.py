import numpy as np
import pytest

from mindone.data.transforms import ResizeCrop, ResizeWithin, centre_offset, normalise, resize, resize_to_cover
from mindone.errors import UserError


def ramp(height: int, width: int) -> np.ndarray:
    """A frame whose red channel grows to the right and green downwards, from 0 to 250."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(0, 250, width)
    frame[..., 1] = np.linspace(0, 250, height)[:, None]
    return frame


@pytest.mark.parametrize("name", ["center", "crop_resize"])
@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (64, 64), (50, 300), (31, 47)])
def test_the_crop_is_really_the_centre(name, size):
    cropped = ResizeCrop(256, 256, name)(ramp(*size)).astype(float)
    assert cropped.shape == (256, 256, 3)
    left, right = cropped[:, 0, 0].mean(), cropped[:, -1, 0].mean()
    top, bottom = cropped[0, :, 1].mean(), cropped[-1, :, 1].mean()
    assert left + right == pytest.approx(250, abs=4) and top + bottom == pytest.approx(250, abs=4)


def test_wide_videos_lose_the_same_on_both_sides():
    covered = resize_to_cover(ramp(1080, 1920), 256, 256)
    assert covered.shape == (256, 455, 3) and centre_offset(455, 256) == 99
    assert (ResizeCrop(256, 256)(ramp(1080, 1920)) == covered[:, 99:355]).all()


def test_shrinking_averages_areas():
    checkers = np.indices((64, 64)).sum(0) % 2 * np.uint8(200)
    small = resize(np.repeat(checkers[..., None], 3, axis=-1).astype(np.uint8), 16, 16)
    assert (small == 100).all()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(64, 64, (64, 64)), (32, 128, (32, 128)), (720, 1280, (48, 80)), (40, 20, (32, 16)), (8, 8, (16, 16))],
)
def test_frames_shrink_to_an_area_and_keep_their_aspect_ratio(height, width, expected):
    transform = ResizeWithin(64).of(height, width)
    assert (transform.height, transform.width) == expected
    assert transform(ramp(height, width)).shape == (*expected, 3)


@pytest.mark.parametrize("size", [(16, 1000), (3000, 17), (17, 3000), (1000, 999)])
def test_no_frame_has_more_than_the_area(size):
    transform = ResizeWithin(64).of(*size)
    assert transform.height * transform.width <= 64 * 64 and transform.height % 16 == transform.width % 16 == 0
    with pytest.raises(UserError, match="image_size=8 has to be at least 16 pixels"):
        ResizeWithin(8)


def test_flipping_mirrors_left_and_right():
    transform = ResizeCrop(32, 32)
    assert (transform(ramp(32, 64), flip=True) == transform(ramp(32, 64))[:, ::-1]).all()


def test_normalised_video_is_channels_first_between_minus_one_and_one():
    frames = np.zeros((2, 4, 6, 3), np.uint8)
    frames[1, ..., 2] = 255
    video = normalise(frames)
    assert video.shape == (3, 2, 4, 6) and video.dtype == np.float32 and video.flags.c_contiguous
    assert (video[2, 1] == 1).all() and (video[0] == -1).all()


def test_unknown_transforms_and_sizes_are_refused():
    with pytest.raises(UserError, match="use center or crop_resize"):
        ResizeCrop(8, 8, "stretch")
    with pytest.raises(UserError, match="has to be positive"):
        ResizeCrop(0, 8)


def test_a_clip_is_the_same_whether_its_length_is_known_or_not():
    frames = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3)).astype(np.uint8)
    transform = ResizeCrop(12, 16)
    np.testing.assert_array_equal(transform.clip(frames), transform.clip(frames, count=5))
    np.testing.assert_array_equal(transform.clip(frames, True), transform.clip(frames, True, count=5))
