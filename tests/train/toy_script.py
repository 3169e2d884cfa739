#!/usr/bin/env python
"""`toy_run` as a command, with signals as commands have them."""

from mindone.errors import guarded


@guarded
def main() -> None:
    import toy_run

    toy_run.main()


if __name__ == "__main__":
    main()
