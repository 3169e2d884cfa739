"""Two videos side by side on the page: chosen, or the second one made with other settings."""

import time

import pytest
from serving_world import COMMAND, MODEL

from mindone.errors import UserError

gr = pytest.importorskip("gradio", reason="the page needs gradio")

from opensora.config.serving import Listening  # noqa: E402
from opensora.serving.page import NAMES, Page  # noqa: E402
from opensora.serving.pair import Pair, PairView, SeenPair  # noqa: E402
from opensora.serving.process import WorkerProcess  # noqa: E402

WORKER = (*COMMAND, "video")
SHAPE = {"image_size": [32, 32], "captions": ["a red circle"]}


def finished(queue, *names):
    while not all(queue.get(name).is_over for name in names):
        time.sleep(0.01)
    assert all(queue.get(name).status == "completed" for name in names)


@pytest.fixture
def page(opened):
    return Page(opened(command=WORKER), WorkerProcess(WORKER))


def fields(**values):
    return [values.get(name, "") for name in NAMES]


def test_a_side_takes_the_video_that_was_chosen_last():
    view = PairView(None, str)
    pair = view.put("right", view.put("left", Pair(), "one"), "two")
    assert pair == Pair("one", "two")
    assert view.put("left", pair, "three") == Pair("three", "two")
    with pytest.raises(UserError, match="click a video of the gallery first"):
        view.put("left", Pair(), None)


def test_a_second_video_has_prompt_and_seed_of_the_left_one_and_the_settings_of_the_fields(page):
    queue = page.videos
    left = queue.submit(MODEL, {**SHAPE, "seed": 7, "sampling_steps": 5})
    values = fields(captions="another text", seed="8", image_size="32x32", sampling_steps="9")
    right, pair = page.second(Pair(), left.id, MODEL, None, *values)
    assert pair == Pair(left.id, right)
    assert queue.get(right).settings == {**SHAPE, "seed": 7, "sampling_steps": 9}
    # What is on the left stays there, whatever was chosen since.
    third, pair = page.second(pair, right, MODEL, None, *values)
    assert pair == Pair(left.id, third)

    finished(queue, left.id, right, third)
    *shown, note, table, seen = page.pair_view.look(pair, SeenPair())
    lines, videos, pictures = shown[::3], shown[1::3], shown[2::3]
    assert all(line.startswith("a red circle: **completed**, seed 7") for line in lines)
    assert [video["value"] for video in videos] == [str(queue.file(queue.get(name))) for name in (left.id, third)]
    assert [picture["visible"] for picture in pictures] == [False, False]
    assert (note, table["value"]) == ("", [["sampling steps", "5", "9"]])
    # What is seen already goes on playing.
    assert page.pair_view.look(pair, seen)[:-1] == [gr.skip()] * 8


def test_videos_with_the_same_settings_have_no_table_but_a_sentence(page):
    left, right = (page.videos.submit(MODEL, {**SHAPE, "seed": 7}).id for _ in range(2))
    finished(page.videos, left, right)
    *_, note, table, _ = page.pair_view.look(Pair(left, right), SeenPair())
    assert (note, table["visible"]) == ("both have the same settings", False)


def test_a_video_that_is_not_there_yet_has_a_line_and_no_table(page):
    left = page.videos.submit(MODEL, {**SHAPE, "seed": 7}).id
    finished(page.videos, left)
    right = page.videos.submit(MODEL, {**SHAPE, "captions": ["wait"]}).id
    looked = page.pair_view.look(Pair(left, right), SeenPair())
    assert looked[3].startswith("wait: **") and (looked[4], looked[5]) == (gr.skip(), gr.skip())
    assert looked[-2]["visible"] is False


def test_a_video_without_its_json_is_shown_and_the_lack_said(page):
    left, right = (page.videos.submit(MODEL, SHAPE).id for _ in range(2))
    finished(page.videos, left, right)
    page.videos.file(page.videos.get(right)).with_suffix(".json").unlink()
    looked = page.pair_view.look(Pair(left, right), SeenPair())
    assert looked[4]["visible"] and "000-stub.json is not the JSON file of a video" in looked[-3]


def test_a_left_video_that_was_deleted_is_said_on_the_page(page):
    left = page.videos.submit(MODEL, SHAPE).id
    page.videos.delete(left)
    with pytest.raises(gr.Error, match="the left video is not there any more"):
        page.second(Pair(left), None, MODEL, None, *fields())
    assert page.pair_view.look(Pair(left), SeenPair())[0] == gr.skip()


def test_the_buttons_of_the_page_do_it(opened):
    from gradio_client import Client

    from opensora.serving.web import show

    queue, forecaster = opened(command=WORKER), WorkerProcess(WORKER)
    blocks, url = show(queue, forecaster, Listening(port=0))
    try:
        client = Client(url, verbose=False)
        asked = [MODEL, None, *fields(captions="a red circle", image_size="32x32", seed="7", sampling_steps="5")]
        client.predict(*asked, api_name="/submit")
        client.predict(api_name="/put_left")
        asked[2:] = fields(image_size="32x32", sampling_steps="9")
        client.predict(*asked, api_name="/second")
        left, right = queue.jobs()
        finished(queue, left.id, right.id)
        table = client.predict(api_name="/look_1")[-1]
    finally:
        blocks.close(verbose=False)
        forecaster.close()
    assert (right.settings["seed"], right.settings["captions"]) == (7, ["a red circle"])
    assert table["value"]["data"] == [["sampling steps", "5", "9"]]
