"""Checks whether a recipe would work here, before anything is loaded."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("validate")
