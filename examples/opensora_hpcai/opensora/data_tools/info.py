"""``opensora data info``: what is in a table."""

from __future__ import annotations

import array
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from mindone.data.table import says_something
from opensora.config.data import InfoConfig
from opensora.data_tools.expressions import number
from opensora.data_tools.files import PROBLEM, Rows, open_table

# Different texts of a column that are counted.
MOST_TEXTS = 1000


@dataclass
class Column:
    """What the cells of a column are."""

    filled: int = 0
    numbers: array.array = field(default_factory=lambda: array.array("d"))
    """of cells that are such"""
    texts: Counter[str] = field(default_factory=Counter)
    """of others, the first `MOST_TEXTS` different ones"""
    characters: int = 0

    def add(self, cell: str) -> None:
        if not says_something(cell):
            return
        self.filled += 1
        value = number(cell)
        if value is not None:
            self.numbers.append(value)
            return
        self.characters += len(cell)
        if cell in self.texts or len(self.texts) < MOST_TEXTS:
            self.texts[cell] += 1

    @property
    def is_number(self) -> bool:
        return self.filled > 0 and len(self.numbers) == self.filled

    def __str__(self) -> str:
        if not self.filled:
            return "empty"
        if self.is_number:
            values = np.frombuffer(self.numbers)
            low, quarter, half, three_quarters, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
            spread = f"{low:.6g} to {high:.6g}, quartiles {quarter:.6g} {half:.6g} {three_quarters:.6g}"
            return f"{spread}, mean {values.mean():.6g}"
        several = f"{len(self.texts)}{' or more' if len(self.texts) == MOST_TEXTS else ''}"
        examples = ", ".join(f"{text[:40]!r} ({count})" for text, count in self.texts.most_common(3))
        words = (
            f"{several} different texts of {self.characters / max(1, self.filled - len(self.numbers)):.0f} characters"
        )
        return f"{words}, most often {examples}"


@dataclass(frozen=True)
class Summary:
    """What is in a table; ``problems`` counts kinds of them, with one example each."""

    rows: int
    columns: dict[str, Column]
    problems: Counter[str]
    examples: dict[str, str]

    def lines(self) -> Iterator[str]:
        """The report."""
        seconds = self.columns.get("duration")
        length = f", {sum(seconds.numbers) / 3600:.2f} hours" if seconds and seconds.is_number else ""
        yield f"{self.rows} rows{length}"
        width = max(map(len, self.columns))
        for name, column in self.columns.items():
            yield f"  {name:<{width}}  {column.filled / max(1, self.rows):6.1%} filled  {column}"
        if self.problems:
            yield f"{self.problems.total()} rows have a problem:"
        for kind, count in self.problems.most_common(10):
            yield f"  {count:>8}  {self.examples[kind]}"


def summarize(rows: Rows) -> Summary:
    """Looks at every row of a table."""
    columns, total = {name: Column() for name in rows.columns}, 0
    problems, examples = Counter(), {}
    for row in rows:
        total += 1
        for name, column in columns.items():
            column.add(row[name])
        if row.get(PROBLEM):
            # without names and numbers, which differ from row to row
            kind = re.sub(r"\S*[\d/.]\S*", "#", row[PROBLEM])
            problems[kind] += 1
            examples.setdefault(kind, row[PROBLEM])
    return Summary(total, columns, problems, examples)


def info(config: InfoConfig) -> Summary:
    """Prints what is in a table, and returns it."""
    summary = summarize(open_table(config.table))
    print("\n".join(summary.lines()))
    return summary
