"""Text embeddings of Open-Sora 2.0 by T5 or CLIP, one .npy per prompt; `--help` lists all settings."""

from opensora.cli import enter

if __name__ == "__main__":
    enter("embed-text-v2")
