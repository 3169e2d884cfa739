import numpy as np
import pytest

from mindone.data.video import read_video
from mindone.errors import UserError
from opensora.config.world import TOY
from opensora.toy.combinations import held_out, scenes
from opensora.toy.judge import Verdict, judge
from opensora.toy.world import captions, clip, write_dataset


def test_twelve_combinations_are_never_in_the_training_part():
    train = {clip(3, index).scene for index in range(2 * 78)}
    assert len(held_out()) == 12
    assert train == set(scenes("all")) - held_out()


@pytest.mark.parametrize(
    "first, second",
    [((0, TOY.colours), (1, TOY.shapes)), ((0, TOY.colours), (2, TOY.motions)), ((1, TOY.shapes), (2, TOY.motions))],
)
def test_every_pair_of_labels_is_seen_in_training(first, second):
    seen = {(scene[first[0]], scene[second[0]]) for scene in scenes("train")}
    assert len(seen) == len(first[1]) * len(second[1])


def test_the_same_seed_gives_the_same_clip_and_no_two_clips_are_equal():
    again = clip(0, 5)
    assert np.array_equal(clip(0, 5).frames, again.frames) and clip(0, 5).caption == again.caption
    frames = [clip(seed, index).frames for seed in (0, 1) for index in range(20)]
    assert len({item.tobytes() for item in frames}) == len(frames)


def test_the_shape_stays_inside_the_frame_and_only_moving_shapes_move():
    for index in range(90):
        item = clip(1, index, "all")
        frames, scene = item.frames, item.scene
        edges = np.concatenate([frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]], axis=1).astype(int)
        assert (edges.max(axis=(0, 1)) - edges.min(axis=(0, 1))).max() < 40
        moved = abs(frames[-1].astype(int) - frames[0]).max() > 60
        assert moved == (scene.direction != "still")


def test_captions_say_the_scene_in_several_ways():
    for scene in scenes("all"):
        texts = captions(scene)
        assert len(set(texts)) == len(texts) >= 6
        assert all(scene.colour in text and scene.shape in text and scene.direction != "" for text in texts)


def test_a_picture_is_a_clip_of_one_frame_whose_caption_has_no_motion():
    item = clip(0, 5, num_frames=1)
    assert item.frames.shape == (1, 64, 64, 3)
    assert item.caption in (f"a {item.scene.colour} {item.scene.shape}", f"the {item.scene.colour} {item.scene.shape}")
    assert judge(item.frames) == Verdict(item.scene.colour, item.scene.shape, None)


def test_pictures_are_written_as_png_without_a_label(tmp_path):
    table = write_dataset(tmp_path, 2, num_frames=1)
    rows = table.read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["videos/00000.png", "videos/00001.png"]
    assert all(row.endswith(",") for row in rows[1:])
    assert read_video(tmp_path / "videos" / "00001.png").shape == (1, 64, 64, 3)


def test_impossible_clips_are_refused():
    with pytest.raises(UserError, match="num_frames=0"):
        clip(0, 0, num_frames=0)
    with pytest.raises(UserError, match="split=test"):
        clip(0, 0, split="test")


def test_a_new_colour_is_a_split_of_its_own_that_no_other_split_has():
    azure = {clip(0, index, "azure").scene for index in range(15)}
    assert azure == set(scenes("azure")) and {scene.colour for scene in azure} == {"azure"}
    assert not azure & set(scenes("all"))
