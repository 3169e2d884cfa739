"""The process that ranks find each other through: MindSpore's scheduler, as the environment of a launcher says."""

from __future__ import annotations


def main() -> None:
    """Serves until all ranks have left; MindSpore ends the process then."""
    from mindspore.communication import init

    init()


if __name__ == "__main__":
    main()
