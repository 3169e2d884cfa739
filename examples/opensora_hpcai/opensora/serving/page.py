"""The page: what is asked for on the left, what becomes of it on the right; over the same queue as the server."""

from __future__ import annotations

import contextlib
import html
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import gradio as gr

from mindone.errors import UserError
from opensora.serving.fields import FIRST, make_fields, settings_in, updates_of, values_of
from opensora.serving.jobs import VideoJob
from opensora.serving.pair import Pair, PairView, SeenPair, Side
from opensora.serving.process import WorkerFailed, WorkerProcess
from opensora.serving.queue import SEEDS, QueueFull, VideoQueue
from opensora.serving.restore import Restored, read_record, restored
from opensora.serving.settings import OPEN, REFERENCES, SUFFIXES, command_line, require_settings

if TYPE_CHECKING:
    from gradio.components import Component

REFRESH_SECONDS = 1.0
LISTED = 10
SHOWN = 24
MORE = tuple(name for name in OPEN if name not in FIRST)
NAMES = (*FIRST, *MORE)


@dataclass(frozen=True)
class Seen:
    """What a browser shows: files of a preview and a video, and the jobs of the gallery."""

    preview: str | None = None
    video: str | None = None
    made: tuple[str, ...] = ()


@contextlib.contextmanager
def shown_errors() -> Iterator[None]:
    """What is refused is a message on the page."""
    try:
        yield
    except (UserError, QueueFull, WorkerFailed) as error:
        raise gr.Error(html.escape(str(error)), duration=None, print_exception=False) from error


class Page:
    """The components of a page, and what happens when they are used.

    Args:
        forecaster: a worker of its own, so that forecasts do not wait for videos.
    """

    def __init__(self, videos: VideoQueue, forecaster: WorkerProcess):
        self.videos, self.forecaster = videos, forecaster
        self.models = list(videos.models)
        self.pair_view = PairView(videos, self.status)

    def build(self) -> gr.Blocks:
        """The page."""
        with gr.Blocks(title="Open-Sora", analytics_enabled=False) as blocks:
            gr.Markdown("# Open-Sora on MindSpore")
            job, seen = gr.State(None), gr.State(Seen())
            with gr.Row():
                with gr.Column():
                    model, fields, references, buttons = self._asking()
                with gr.Column():
                    outputs, cancel = self._seeing()
                    gallery, upload, note = self._made()
            values = [fields[name] for name in NAMES]
            asked = [model, references, *values]
            chosen, timer = gr.State(None), gr.Timer(REFRESH_SECONDS)
            self._pair(blocks, timer, job, chosen, asked)
            make, forecast, said, reuse, anew = buttons
            make.click(self.submit, asked, [job, chosen])
            forecast.click(self.forecast, asked, [said])
            reuse.click(self.last_seed, [job], [fields["seed"]])
            anew.click(lambda: str(random.randrange(SEEDS)), None, [fields["seed"]])
            cancel.click(self.cancel, [job])
            model.change(self.choose, [model], values)
            gallery.select(self.clicked, [seen], [chosen])
            gallery.select(self.restore_shown, [seen], [model, references, note, *values])
            upload.upload(self.restore_file, [upload], [model, references, note, *values])
            timer.tick(self.look, [job, seen], [*outputs, gallery, seen], show_progress="hidden")
            blocks.load(self.look, [job, seen], [*outputs, gallery, seen], show_progress="hidden")
        return blocks

    def _asking(self) -> tuple[Component, dict[str, Component], Component, list[Component]]:
        recipe = self.videos.models[self.models[0]]
        model = gr.Dropdown(self.models, value=self.models[0], label="recipe", elem_id="model")
        fields = make_fields(FIRST[:3], recipe)
        references = gr.File(
            label="given pictures and clips",
            file_count="multiple",
            file_types=list(SUFFIXES),
            height=140,
            elem_id="references",
        )
        with gr.Row():
            fields |= make_fields(FIRST[3:5], recipe)
        with gr.Row():
            fields |= make_fields(FIRST[5:], recipe)
        with gr.Row():
            reuse = gr.Button("use the last seed again", size="sm", elem_id="reuse")
            anew = gr.Button("another seed", size="sm", elem_id="anew")
        with gr.Accordion("more settings", open=False):
            fields |= make_fields(MORE, recipe)
        with gr.Row():
            forecast = gr.Button("what would it take?", elem_id="forecast")
            make = gr.Button("make the video", variant="primary", elem_id="make")
        said = gr.Markdown(elem_id="forecast-said")
        return model, fields, references, [make, forecast, said, reuse, anew]

    def _seeing(self) -> tuple[list[Component], Component]:
        status = gr.Markdown(elem_id="status")
        preview = gr.Image(show_label=False, elem_id="preview", interactive=False, visible=False)
        video = gr.Video(label="video", elem_id="video", interactive=False, autoplay=True, loop=True)
        cancel = gr.Button("cancel", variant="stop", interactive=False, elem_id="cancel")
        waiting = gr.Markdown(elem_id="waiting")
        return [status, preview, video, waiting, cancel], cancel

    def _made(self) -> tuple[Component, Component, Component]:
        gallery = gr.Gallery(
            label="made so far: a click restores the settings", columns=4, height=360, elem_id="gallery"
        )
        upload = gr.UploadButton("restore from the JSON of a video", file_types=[".json"], size="sm", elem_id="restore")
        return gallery, upload, gr.Markdown(elem_id="restored")

    def _pair(
        self, blocks: gr.Blocks, timer: gr.Timer, job: gr.State, chosen: gr.State, asked: list[Component]
    ) -> None:
        """Two videos side by side: the components and what happens when they are used."""
        pair, seen = gr.State(Pair()), gr.State(SeenPair())
        gr.Markdown("## Side by side\nThe video that was clicked in the gallery, or asked for, last:")
        with gr.Row():
            left = gr.Button("put it on the left", size="sm", elem_id="put-left")
            right = gr.Button("put it on the right", size="sm", elem_id="put-right")
        second = gr.Button(
            "make a second one: prompt and seed of the left video, all else as in the fields", elem_id="second"
        )
        outputs = [*self.pair_view.build(), seen]
        left.click(self.put_left, [pair, chosen], [pair])
        right.click(self.put_right, [pair, chosen], [pair])
        second.click(self.second, [pair, chosen, *asked], [job, pair])
        timer.tick(self.pair_view.look, [pair, seen], outputs, show_progress="hidden")
        blocks.load(self.pair_view.look, [pair, seen], outputs, show_progress="hidden")

    # --- what buttons do ---------------------------------------------------------------------------------------------

    def submit(self, model: str, references: Sequence[str] | None, *values: object) -> list[str]:
        """Puts a video into the queue and returns its name: it is the one that is seen, and the chosen one."""
        with shown_errors():
            return [self._submit(model, references, settings_in(dict(zip(NAMES, values))))] * 2

    def _submit(self, model: str, references: Sequence[str] | None, settings: Mapping[str, object]) -> str:
        with _opened(references) as files:
            return self.videos.submit(model, settings, files).id

    def put_left(self, pair: Pair, chosen: str | None) -> Pair:
        return self._put("left", pair, chosen)

    def put_right(self, pair: Pair, chosen: str | None) -> Pair:
        return self._put("right", pair, chosen)

    def _put(self, side: Side, pair: Pair, chosen: str | None) -> Pair:
        with shown_errors():
            return self.pair_view.put(side, pair, chosen)

    def second(
        self, pair: Pair, chosen: str | None, model: str, references: Sequence[str] | None, *values: object
    ) -> list[object]:
        """Puts a video with prompt and seed of the left one into the queue; its name, and the pair of both."""
        with shown_errors():
            left = self.pair_view.beginning(pair, chosen)
            same = {name: left.settings[name] for name in ("captions", "seed")}
            settings = settings_in(dict(zip(NAMES, values))) | same
            right = self._submit(model, references, settings)
            return [right, Pair(left.id, right)]

    def forecast(self, model: str, references: Sequence[str] | None, *values: object) -> str:
        """Time and memory of what the fields say."""
        with shown_errors():
            settings = {"captions": ["a video"], **settings_in(dict(zip(NAMES, values)))}
            if references:
                settings[REFERENCES] = [";".join(references)]
            recipe = self.videos.models[model]
            require_settings(recipe, settings)
            return self.forecaster.ask("forecast", command_line(recipe, settings))["text"]

    def last_seed(self, job_id: str | None) -> str:
        """The seed of the video that was asked for last."""
        job = self.videos.get(job_id) if job_id else None
        return str(job.settings["seed"]) if job else ""

    def cancel(self, job_id: str | None) -> None:
        if job_id:
            self.videos.cancel(job_id)

    def choose(self, model: str) -> list[object]:
        """What another recipe changes of the fields."""
        return updates_of(NAMES, self.videos.models[model])

    # --- what is seen ------------------------------------------------------------------------------------------------

    def look(self, job_id: str | None, seen: Seen) -> list[object]:
        """Status, preview and video of the job that was asked for last, what waits, and the gallery.

        Pictures and videos that are seen already are left alone, so that they go on playing.
        """
        job = self.videos.get(job_id) if job_id else None
        preview = self.videos.preview(job) if job and job.status == "in_progress" else None
        file = self.videos.file(job) if job else None
        video = str(file) if file and file.suffix != ".png" else None
        done = [job for job in self.videos.jobs()[::-1] if self.videos.file(job)][:SHOWN]
        now = Seen(preview and str(preview), video, tuple(job.id for job in done))
        gallery = [(str(self.videos.file(job)), job.settings["captions"][0]) for job in done]
        picture = gr.update(value=now.preview, visible=preview is not None)
        return [
            self.status(job),
            picture if now.preview != seen.preview else gr.skip(),
            now.video if now.video != seen.video else gr.skip(),
            self.waiting(),
            gr.update(interactive=job is not None and not job.is_over),
            gallery if now.made != seen.made else gr.skip(),
            now,
        ]

    def status(self, job: VideoJob | None) -> str:
        """One line on a job."""
        if job is None:
            return "nothing is asked for yet"
        place = self.videos.place(job)
        line = f"**{job.status.replace('_', ' ')}**, seed {job.settings['seed']}"
        if place is not None:
            line += f", {place} before it"
        elif job.status == "in_progress":
            line += f", {100 * self.videos.progress(job):.0f} %"
        elif job.started_at and job.completed_at:
            line += f", {job.completed_at - job.started_at:.0f} s"
        return f"{line}: {html.escape(job.error)}" if job.error else line

    def waiting(self) -> str:
        """The jobs that are not over, as a list."""
        jobs = [job for job in self.videos.jobs() if not job.is_over]
        lines = [f"- {job.status.replace('_', ' ')}: {html.escape(job.settings['captions'][0][:80])}" for job in jobs]
        rest = [f"- and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
        return "\n".join(lines[:LISTED] + rest)

    # --- restoring ---------------------------------------------------------------------------------------------------

    def clicked(self, seen: Seen, event: gr.SelectData) -> str:
        """The name of a job of the gallery."""
        return seen.made[event.index]

    def restore_shown(self, seen: Seen, event: gr.SelectData) -> list[object]:
        """The settings of a video of the gallery, from the JSON beside it."""
        with shown_errors():
            job = self.videos.get(seen.made[event.index])
            video = self.videos.file(job) if job else None
            if video is None:
                raise UserError("this video is not there any more")
            return self._fill(restored(read_record(video.with_suffix(".json")), self.videos.models, job.model))

    def restore_file(self, path: str) -> list[object]:
        """The settings that a JSON file of any video tells."""
        with shown_errors():
            return self._fill(restored(read_record(path), self.videos.models))

    def _fill(self, found: Restored) -> list[object]:
        """Recipe, references, a note of what the fields cannot say, and the fields."""
        own = [path for path in found.references if self.videos.folder in Path(path).parents and Path(path).is_file()]
        notes = ["settings are restored"]
        if found.model is None:
            notes.append("none of the recipes here has its model; the one that is chosen stays")
        notes += [f"it was made with {name}={value}, the recipe says another" for name, value in found.fixed.items()]
        notes += [f"give {Path(path).name} again" for path in found.references if path not in own]
        values = values_of(found.settings, NAMES)
        return [found.model or gr.skip(), own or None, html.escape("; ".join(notes)), *values]


@contextlib.contextmanager
def _opened(paths: Sequence[str] | None) -> Iterator[list[tuple[str, BinaryIO]]]:
    with contextlib.ExitStack() as stack:
        yield [(Path(path).name, stack.enter_context(open(path, "rb"))) for path in paths or ()]
