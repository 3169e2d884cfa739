"""Looks at this machine: packages, device, disk and hub, and what to do about each."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("doctor")
