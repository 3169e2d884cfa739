"""Files that go wrong, given to the commands that read them: a right result, or exit code 2 with one line.

Eight kinds of files, made from a fixed seed. A few of each run here; ``HOSTILE_FILES=240 pytest PATH_OF_THIS_FILE -s``
runs as many as are asked for and prints what became of them.
"""

import importlib.util
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindone import runtime
from mindone.data.write import write_video
from opensora import networks
from opensora.cli import enter
from opensora.text.encoder import TextEmbeddings, TextEncoder

COUNT = int(os.environ.get("HOSTILE_FILES", "32"))
MEMORY = 2 << 30
RECIPES = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
EXTREMES = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff")
INSERTED = (b"\0", b"\xfe\xff", b"{{{{", b"- [", b"&a *a", b": !!python/object:os.system")
KINDS = ("table", "video table", "prompts", "recipe", "latents", "picture", "film", "checkpoint")


class Averages:
    """Stands in for an autoencoder: latents are averages over 8x8 pixels."""

    chunk_frames, latent_channels, spatial_compression, time_compression = None, 3, 8, 1

    def latent_size(self, size):
        return size[0], size[1] // 8, size[2] // 8

    def frames_of(self, latent_frames):
        return latent_frames

    def posterior(self, video):
        import mindspore as ms

        batch, channels, frames, height, width = video.shape
        mean = video.reshape(batch, channels, frames, height // 8, 8, width // 8, 8).mean((4, 6))
        return ms.Tensor(mean), ms.Tensor(np.zeros_like(mean))

    def normalize(self, z):
        return z

    def decode(self, z, num_frames):
        import mindspore as ms

        return ms.Tensor(np.asarray(z).repeat(8, 3).repeat(8, 4)[:, :, :num_frames])


class Lengths:
    """Stands in for a text encoder."""

    def encode(self, texts):
        embeddings = np.ones((len(texts), 4, 8), np.float32)
        return TextEmbeddings(embeddings, np.ones((len(texts), 4), np.uint8), np.ones((len(texts), 4), np.int32))


@pytest.fixture
def stand_ins(monkeypatch):
    monkeypatch.setattr(runtime, "setup", lambda *_, **__: runtime.current())
    for name in ("autoencoder_skeleton", "load_autoencoder"):
        monkeypatch.setattr(networks, name, lambda *_, **__: Averages())
    monkeypatch.setattr(TextEncoder, "from_folder", lambda *_, **__: Lengths())


def generator(path: Path):
    spec = importlib.util.spec_from_file_location(f"hostile_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OURS = generator(Path(__file__).with_name("hostile.py"))
WEIGHTS = generator(Path(__file__).parents[3] / "tests" / "checkpoint" / "hostile.py")


def changed(content: bytes, rng: random.Random) -> bytes:
    """Bytes cut, swapped, repeated or overwritten at some places; sometimes as they were."""
    data = bytearray(content)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        start = rng.randrange(max(1, len(data)))
        kind = rng.randrange(5)
        if kind == 0:
            del data[start:]
        elif kind == 1:
            data[start : start + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", rng.randbytes(4))
            )
        elif kind == 2:
            data[start:start] = data[start : start + rng.randrange(64)]
        elif kind == 3:
            data[start : start + 1] = rng.randbytes(1)
        else:
            data[start:start] = rng.choice(
                (b"\0", b"\xfe\xff", b"{{{{", b"- [", b"&a *a", b": !!python/object:os.system")
            )
    return bytes(data)


def picture(rng: random.Random, path: Path) -> bytes:
    mode = rng.choice(("RGB", "L", "P", "RGBA", "1", "CMYK", "I;16", "LA"))
    kind = rng.choice(("png", "jpeg", "tiff", "gif", "webp", "bmp"))
    image = Image.fromarray(np.random.default_rng(rng.randrange(99)).integers(0, 255, (16, 24, 3), np.uint8))
    try:
        image.convert("I" if mode == "I;16" else mode).convert(mode).save(path, kind)
    except (OSError, ValueError):
        image.save(path, "png")
    return path.read_bytes()


def film(rng: random.Random, path: Path) -> bytes:
    write_video(path, np.random.default_rng(0).integers(0, 255, (rng.choice((1, 5, 9)), 32, 48, 3), np.uint8), 8)
    return path.read_bytes()


def files(kind: str, count: int, scratch: Path) -> list[bytes]:
    """``count`` files of a kind."""
    rng = random.Random(kind)
    if kind in ("table", "video table"):
        return [content for _, content in OURS.tables(count, seed=len(kind))]
    if kind == "prompts":
        return [content for _, content in OURS.prompts(count)]
    if kind == "latents":
        return [content for _, content in OURS.archives(count)]
    if kind == "recipe":
        return [changed(rng.choice(RECIPES).read_bytes(), rng) for _ in range(count)]
    if kind == "checkpoint":
        WEIGHTS.write(scratch / "weights", by_chance=max(3, count))
        paths = sorted(path for path in (scratch / "weights").rglob("*") if path.is_file())
        return [(path.name, path.read_bytes()) for path in rng.sample(paths, count)]
    make, name = (picture, "a.img") if kind == "picture" else (film, "a.mp4")
    return [changed(make(rng, scratch / name), rng) for _ in range(count)]


def command(kind: str, content, folder: Path) -> tuple[str, list[str]]:
    """Puts a file into a folder; the door and the flags that read it."""
    out = ["--output_path", str(folder / "out")]
    table = folder / "table.csv"
    video = ["--csv_path", str(table), "--video_folder", str(folder), "--vae_checkpoint", str(folder)]
    video += ["--image_size", "16", "--num_parallel_workers", "0", "--max_bad_fraction", "1", *out]
    text = ["--t5_model_name_or_path", str(folder), *out]
    if kind == "checkpoint":
        name, content = content
        (folder / name).write_bytes(content)
        return "convert", ["--src", str(folder / name), "--target", str(folder / "out.safetensors")]
    if kind == "recipe":
        (folder / "r.yaml").write_bytes(content)
        return "train", ["--config", str(folder / "r.yaml"), "--print_config"]
    if kind == "latents":
        (folder / "latents").mkdir()
        (folder / "latents" / "a.npz").write_bytes(content)
        return "decode", ["--latent_folder", str(folder / "latents"), "--vae_checkpoint", str(folder), *out]
    if kind == "prompts":
        (folder / "p.txt").write_bytes(content)
        return "embed-text", ["--prompt_path", str(folder / "p.txt"), *text]
    if kind in ("picture", "film"):
        name = "a.png" if kind == "picture" else "a.mp4"
        (folder / name).write_bytes(content)
        table.write_text(f"video,caption\n{name},x\n")
        return "embed-video", video
    table.write_bytes(content)
    return ("embed-text", ["--csv_path", str(table), *text]) if kind == "table" else ("embed-video", video)


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_ends_in_a_result_or_in_one_line(kind, stand_ins, tmp_path, capsys):
    ends = Counter()
    for number, content in enumerate(files(kind, max(1, COUNT // len(KINDS)), tmp_path)):
        folder = tmp_path / str(number)
        folder.mkdir()
        name, flags = command(kind, content, folder)
        before = runtime.peak_memory()
        code = 0
        try:
            enter(name, flags)
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            raise AssertionError(f"{kind} {number} in {folder} ends in {error!r}") from error
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (code, len(lines)) in ((0, 0), (2, 1)), (kind, number, code, lines)
        grown = runtime.peak_memory() - before
        assert grown < MEMORY, (kind, number, grown)
        ends["refused" if code else "taken"] += 1
    with capsys.disabled():
        if "HOSTILE_FILES" in os.environ:
            print(f"{kind}: {dict(ends)}")
