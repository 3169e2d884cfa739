"""An endpoint that captions clips of the toy world; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("toy-captions")
