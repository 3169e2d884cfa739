"""Prints what a checkpoint holds; nothing in it is run, and no tensor is read without --finite."""

from functools import partial

from opensora.cli import enter

main = partial(enter, "inspect")

if __name__ == "__main__":
    main()
