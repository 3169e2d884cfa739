"""``opensora data report``: a table on one page: how its numbers are spread, what clips look like, what a recipe takes.

The page holds its pictures itself and loads nothing.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from mindone import runtime
from mindone.checkpoint.atomic import atomic_write
from mindone.config import parse
from mindone.data.table import relative_path
from mindone.errors import UserError
from mindone.progress import progress_bar
from opensora import cli
from opensora.config.data import ReportConfig
from opensora.data_tools.caption import as_url, frames_of
from opensora.data_tools.files import PROBLEM, Row, open_table
from opensora.data_tools.info import Summary, summarize
from opensora.data_tools.listing import CAPTION, VIDEO

BARS, WIDE, HIGH = 24, 240, 90
COLOURS = ("#3b6fb6", "#c8553d")
"""Of what is kept and of what is rejected."""
PICTURE = 160
STYLE = (
    "body{font:14px sans-serif;margin:2em}figure{display:inline-block;margin:0 1em 1em 0;vertical-align:top}"
    "figure.clip{width:160px;overflow-wrap:anywhere;font-size:11px}img{width:160px}pre{font-size:12px}"
)


def report(config: ReportConfig) -> Path:
    """Writes the page and returns where it is.

    Raises:
        UserError: a table cannot be read, or the recipe cannot plan it.
    """
    kept = open_table(config.table, [VIDEO])
    others = [open_table(path, [VIDEO]) for path in config.rejected or []]
    summaries = summarize(kept), [summarize(rows) for rows in others]
    # the plan before the pictures: what is refused is refused at once
    fit = bucket_fit(config) if config.recipe else None
    sheets = [
        (title, some_of(rows, config.clips, config.seed))
        for title, rows in (("Kept", kept), ("Rejected", chain.from_iterable(others)))
    ]
    parts = [_heading(config, *summaries), *_histograms(*summaries), *_sheets(sheets, config)]
    if fit is not None:
        parts.append(f"<h2>Buckets of {html.escape(str(config.recipe))}</h2><pre>{html.escape(fit)}</pre>")
    start = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Report</title>'
    page = f"{start}<style>{STYLE}</style>{''.join(parts)}</html>\n"
    with atomic_write(config.output) as file:
        file.write(page.encode())
    print(f"{config.output}: {summaries[0].rows} rows, {sum(each.rows for each in summaries[1])} rejected")
    return Path(config.output)


def bucket_fit(config: ReportConfig) -> str:
    """What ``opensora plan-data`` says of the table and the recipe.

    Raises:
        UserError: the recipe has no buckets, or no row falls into one.
    """
    door = cli.all_doors()["plan-data"]
    where = ["--csv_path", str(config.table), "--video_folder", str(config.video_folder)]
    recipe = parse(cli.load(door.schema), ["--config", str(config.recipe), *where], "the recipe")
    return cli.load("opensora.training.plan_data:planned")(recipe)[0]


def some_of(rows: Iterable[Row], count: int, seed: int) -> list[Row]:
    """At most ``count`` rows, each as likely as any other, in the order of the table."""
    rng = runtime.stream(seed, "report")
    chosen: list[tuple[int, Row]] = []
    for number, row in enumerate(rows):
        if len(chosen) < count:
            chosen.append((number, row))
        elif (place := int(rng.integers(number + 1))) < count:
            chosen[place] = (number, row)
    return [row for _, row in sorted(chosen, key=lambda each: each[0])]


def _heading(config: ReportConfig, kept: Summary, others: Sequence[Summary]) -> str:
    kinds = [(count, each.examples[kind]) for each in (kept, *others) for kind, count in each.problems.most_common(10)]
    problems = [f"{count} rows: {example}" for count, example in kinds]
    listed = "".join(f"<li>{html.escape(line)}</li>" for line in problems)
    note = f"{kept.rows} rows are kept" + (f", {sum(each.rows for each in others)} are rejected" if others else "")
    return f"<h1>{html.escape(str(config.table))}</h1><p>{note}.</p>" + (f"<ul>{listed}</ul>" if listed else "")


# --- how numbers are spread ------------------------------------------------------------------------------------------


def _histograms(kept: Summary, others: Sequence[Summary]) -> Iterator[str]:
    yield f'<h2>Columns</h2><p><span style="color:{COLOURS[0]}">kept</span>'
    yield f' and <span style="color:{COLOURS[1]}">rejected</span>, as shares of each</p>'
    for name in dict.fromkeys(chain(kept.columns, *(each.columns for each in others))):
        columns = [summary.columns[name] for summary in (kept, *others) if name in summary.columns]
        # a column may be empty in one of the tables
        if any(column.is_number for column in columns) and all(c.is_number or not c.filled for c in columns):
            groups = [
                np.concatenate([np.frombuffer(s.columns[name].numbers) for s in some if name in s.columns] or [[]])
                for some in ([kept], others)
            ]
            yield _histogram(name, groups)


def histogram(groups: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float, float]:
    """Shares of each group's numbers in `BARS` equal parts of the range of all, and that range."""
    low, high = (float(pick(np.concatenate(groups))) for pick in (np.min, np.max))
    counts = [np.histogram(group, BARS, (low, high) if high > low else (low - 0.5, high + 0.5))[0] for group in groups]
    return [count / max(1, len(group)) for count, group in zip(counts, groups)], low, high


def _histogram(name: str, groups: Sequence[np.ndarray]) -> str:
    groups = [group[np.isfinite(group)] for group in groups]
    if not any(map(len, groups)):
        return ""
    shares, low, high = histogram(groups)
    top = max(share.max() for share in shares)
    step = WIDE / BARS
    bars = [
        f'<rect x="{(bar + side / 2) * step:.1f}" y="{HIGH * (1 - value / top):.1f}" width="{step / 2 - 0.5:.1f}" '
        f'height="{HIGH * value / top:.1f}" fill="{colour}"/>'
        for side, (share, colour) in enumerate(zip(shares, COLOURS))
        for bar, value in enumerate(share)
        if value
    ]
    picture = f'<svg width="{WIDE}" height="{HIGH}" role="img">{"".join(bars)}</svg>'
    median = f"median {np.median(groups[0]):.4g}, " if len(groups[0]) else ""
    return f"<figure>{picture}<figcaption>{html.escape(name)}: {median}{low:.4g} to {high:.4g}</figcaption></figure>"


# --- what clips look like --------------------------------------------------------------------------------------------


def _sheets(sheets: Sequence[tuple[str, list[Row]]], config: ReportConfig) -> Iterator[str]:
    for title, rows in sheets:
        if rows:
            yield f"<h2>{title}</h2>"
            yield from (_clip(row, config) for row in progress_bar(title.lower(), rows))


def _clip(row: Row, config: ReportConfig) -> str:
    """The middle frame of a row's clip, with what is said of it."""
    said = [row[VIDEO], row.get(CAPTION, ""), row.get(PROBLEM, "")]
    said += [f"duplicate of {row['duplicate_of']}"] if row.get("duplicate_of") else []
    try:
        relative = relative_path(row[VIDEO], config.video_folder, "the table")
        picture = f'<img src="{as_url(frames_of(Path(config.video_folder, relative), 1)[0], PICTURE)}">'
    except UserError:
        picture = "<p>cannot be read</p>"
    words = "<br>".join(html.escape(text) for text in said if text)
    return f'<figure class="clip">{picture}<figcaption>{words}</figcaption></figure>'
