"""The page in a headless Chromium: a video is made by clicks, shown, cancelled, restored."""

import os
import shutil

import pytest
from serving_world import COMMAND

from opensora.config.serving import Listening
from opensora.serving.process import WorkerProcess

pytest.importorskip("gradio", reason="the page needs gradio")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
WORKER = (*COMMAND, "video")


@pytest.fixture
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def shown(opened, browser):
    """Opens the page over a queue with the stub worker."""
    from opensora.serving.web import show

    closing = []

    def open_page(**listening):
        queue, forecaster = opened(command=WORKER), WorkerProcess(WORKER)
        blocks, url = show(queue, forecaster, Listening(port=0, **listening))
        closing.append(blocks.close)
        closing.append(forecaster.close)
        page = browser.new_page(viewport={"width": 1400, "height": 1500})
        page.set_default_timeout(60_000)
        page.goto(url)
        return queue, page

    yield open_page
    for close in closing:
        close()


def field(page, name):
    return page.locator(f"#setting-{name} textarea, #setting-{name} input").first


def says(page, place, text):
    sync_api.expect(page.locator(place)).to_contain_text(text, timeout=60_000)


def test_a_video_is_made_shown_cancelled_and_restored_by_clicks(shown):
    queue, page = shown()
    says(page, "#status", "nothing is asked for yet")
    field(page, "captions").fill("a red circle <b>moves</b>")
    field(page, "sampling_steps").fill("5")
    page.click("#anew")
    page.click("#forecast")
    says(page, "#forecast-said", "17 frames of 64x64: about 3 s")
    page.click("#make")
    says(page, "#status", "completed")
    sync_api.expect(page.locator("#video video")).to_be_visible()
    made = queue.jobs()[0]
    seed = int(made.settings["seed"])
    assert made.settings == {"captions": ["a red circle <b>moves</b>"], "sampling_steps": 5, "seed": seed}

    field(page, "captions").fill("wait")
    field(page, "sampling_steps").fill("9")
    page.click("#make")
    says(page, "#status", "in progress")
    says(page, "#waiting", "in progress: wait")
    sync_api.expect(page.locator("#preview img")).to_be_visible()
    page.click("#cancel")
    says(page, "#status", "cancelled")

    page.locator("#gallery button.thumbnail-item, #gallery .thumbnail-lg").first.click()
    says(page, "#restored", "settings are restored")
    sync_api.expect(field(page, "captions")).to_have_value("a red circle <b>moves</b>")
    sync_api.expect(field(page, "sampling_steps")).to_have_value("5")
    sync_api.expect(field(page, "guidance_scale")).to_have_value("3.5")
    sync_api.expect(field(page, "seed")).to_have_value(str(seed))
    if os.environ.get("OPENSORA_SCREENSHOT"):
        page.screenshot(path=os.environ["OPENSORA_SCREENSHOT"], full_page=True)


def test_what_cannot_be_is_said_on_the_page(shown):
    queue, page = shown()
    field(page, "captions").fill("a cat --s 3")
    page.click("#make")
    says(page, ".toast-wrap", "the prompt itself says seed")
    assert queue.jobs() == []


def test_the_page_is_shown_to_those_who_know_the_token(shown):
    queue, page = shown(token="secret")
    sync_api.expect(page.locator("input[type=password]")).to_be_visible()
    assert page.locator("#make").count() == 0
    page.locator("input").first.fill("anybody")
    page.locator("input[type=password]").fill("secret")
    page.get_by_role("button", name="Login").click()
    says(page, "#status", "nothing is asked for yet")
