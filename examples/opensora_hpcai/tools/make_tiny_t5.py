"""Writes the tiny T5 encoder of the toy world: random weights, config and tokenizer in the hub's layout.

python tools/make_tiny_t5.py --output models/tiny/t5
"""

from __future__ import annotations

from dataclasses import dataclass

from mindone.config import FilePath, parse
from mindone.errors import UserError, guarded
from opensora.text.tiny_t5 import write_tiny_t5


@dataclass
class TinyT5:
    """Settings of make_tiny_t5.py."""

    output: FilePath = ""
    """folder to write into"""
    seed: int = 0
    """the same seed gives the same bytes"""

    def check(self) -> None:
        if not self.output:
            raise UserError("no folder to write into; give one with --output DIR")


@guarded
def main(argv: list[str] | None = None) -> None:
    config = parse(TinyT5, argv, prog="make_tiny_t5.py", description=__doc__.splitlines()[0])
    print(f"wrote {write_tiny_t5(config.output, config.seed)}")


if __name__ == "__main__":
    main()
