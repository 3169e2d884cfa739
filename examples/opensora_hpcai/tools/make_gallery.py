"""Shows the bundled models on the same prompts and tasks in one picture; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("gallery")
