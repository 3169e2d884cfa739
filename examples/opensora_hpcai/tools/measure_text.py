"""How much text the score `ocr` finds, and what it takes for text; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("measure-text")
