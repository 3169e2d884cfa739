"""Plans the buckets of a training; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("plan-data")
