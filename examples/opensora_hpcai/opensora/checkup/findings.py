"""What a check found, in one line each: whether it is right, what it is, and what to do if it is not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from mindone.errors import UserError

Mark = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of a report."""

    mark: Mark
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.mark:<5}  {self.what:<12}  {' '.join(self.text.split())}"


@dataclass
class Report:
    """Findings in their order; each is printed as soon as it is there."""

    findings: list[Finding] = field(default_factory=list)

    def add(self, mark: Mark, what: str, text: str) -> None:
        self.findings.append(Finding(mark, what, text))
        print(self.findings[-1], flush=True)

    def check(self, what: str, do: Callable[[], str | None]) -> bool:
        """Adds what ``do`` says, or the error that it raises; returns whether it raised none. None says nothing."""
        try:
            text = do()
        except UserError as error:
            self.add("wrong", what, str(error))
            return False
        if text:
            self.add("ok", what, text)
        return True

    @contextlib.contextmanager
    def about(self, what: str) -> Iterator[None]:
        """An error within is a finding and ends the block."""
        with contextlib.suppress(UserError):
            try:
                yield
            except UserError as error:
                self.add("wrong", what, str(error))
                raise

    def require_right(self, subject: str) -> None:
        """Ends with exit code 2 if anything is wrong.

        Raises:
            UserError: says how many findings are.
        """
        wrong = [finding for finding in self.findings if finding.mark == "wrong"]
        if wrong:
            raise UserError(
                f"{subject}: {len(wrong)} of {len(self.findings)} findings are wrong: "
                f"{', '.join(dict.fromkeys(finding.what for finding in wrong))}"
            )
