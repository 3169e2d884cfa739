"""Starts a script as several processes, on the devices of this machine or of several."""

from functools import partial

from opensora.cli import enter

main = partial(enter, "launch")

if __name__ == "__main__":
    main()
