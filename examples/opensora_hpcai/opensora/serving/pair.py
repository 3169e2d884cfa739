"""Two videos side by side on the page, and a table of the settings in which they differ."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import gradio as gr

from mindone.errors import UserError
from opensora.serving.differences import differences
from opensora.serving.jobs import VideoJob
from opensora.serving.queue import VideoQueue
from opensora.serving.restore import read_record

if TYPE_CHECKING:
    from gradio.components import Component

PICTURES = (".png", ".gif")
HEAD = ["setting", "left", "right"]
# Both begin anew, at the same time; what has ended plays again.
PLAY = """() => document.querySelectorAll("#left-video video, #right-video video").forEach(
    (video) => { video.currentTime = 0; video.play(); })"""
Side = Literal["left", "right"]


@dataclass(frozen=True)
class Pair:
    """The names of two jobs."""

    left: str | None = None
    right: str | None = None


@dataclass(frozen=True)
class SeenPair:
    """What a browser shows: files of both videos, and a line on each."""

    files: tuple[str | None, str | None] = (None, None)
    lines: tuple[str, str] = ("", "")


class PairView:
    """The part of the page that shows two videos.

    Args:
        status: one line on a job.
    """

    def __init__(self, videos: VideoQueue, status: Callable[[VideoJob | None], str]):
        self.videos, self.status = videos, status

    def build(self) -> list[Component]:
        """The components that `look` fills, in its order, in the place where this is called."""
        outputs: list[Component] = []
        with gr.Row():
            for side in ("left", "right"):
                with gr.Column():
                    line = gr.Markdown(elem_id=f"{side}-line")
                    options = {"show_label": False, "interactive": False, "visible": False}
                    video = gr.Video(elem_id=f"{side}-video", autoplay=True, loop=True, **options)
                    outputs += [line, video, gr.Image(elem_id=f"{side}-picture", **options)]
        gr.Button("play both from the start", size="sm", elem_id="play-both").click(None, js=PLAY)
        note = gr.Markdown(elem_id="differences-note")
        return [*outputs, note, gr.Dataframe(headers=HEAD, interactive=False, visible=False, elem_id="differences")]

    def put(self, side: Side, pair: Pair, chosen: str | None) -> Pair:
        """The pair with another video on one side.

        Args:
            chosen: the job that was clicked in the gallery, or asked for, last.
        Raises:
            UserError: there is none.
        """
        if chosen is None:
            raise UserError("click a video of the gallery first, or make one")
        return replace(pair, **{side: chosen})

    def beginning(self, pair: Pair, chosen: str | None) -> VideoJob:
        """The job that a second video is to be compared with: the left one, or as `put` takes it.

        Raises:
            UserError: there is none.
        """
        job = self.videos.get((pair if pair.left else self.put("left", pair, chosen)).left)
        if job is None:
            raise UserError("the left video is not there any more; put another one on the left")
        return job

    def look(self, pair: Pair, seen: SeenPair) -> list[object]:
        """For each side a line, a video and a picture, one of which is shown; a note; the table of differences.

        What is seen already is left alone, so that it goes on playing.
        """
        jobs = [self.videos.get(name) if name else None for name in (pair.left, pair.right)]
        files = [self.videos.file(job) if job else None for job in jobs]
        now = SeenPair(tuple(file and str(file) for file in files), tuple(map(self._line, jobs)))
        updates: list[object] = []
        for place, file in enumerate(now.files):
            is_new = file != seen.files[place]
            updates.append(now.lines[place] if now.lines[place] != seen.lines[place] else gr.skip())
            for wanted in (False, True):
                own = file if file and file.endswith(PICTURES) is wanted else None
                updates.append(gr.update(value=own, visible=own is not None) if is_new else gr.skip())
        table = self._table(files) if now.files != seen.files else [gr.skip(), gr.skip()]
        return [*updates, *table, now]

    def _line(self, job: VideoJob | None) -> str:
        return f"{html.escape(job.settings['captions'][0][:80])}: {self.status(job)}" if job else ""

    def _table(self, files: list[Any]) -> list[object]:
        """A note and the table, once both videos are there."""
        if None in files:
            return ["", gr.update(visible=False)]
        try:
            rows = differences(*(read_record(file.with_suffix(".json")) for file in files))
        except UserError as error:
            return [html.escape(str(error)), gr.update(visible=False)]
        return ["" if rows else "both have the same settings", gr.update(value=rows, visible=bool(rows))]
