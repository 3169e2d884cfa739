"""Wrong uses end with exit code 2 and one clear line that names what is wrong, before anything is written."""

import json
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest

from opensora.cli import enter

EXAMPLE = Path(__file__).parent.parent
TINY = EXAMPLE / "configs" / "tiny"
MODELS = EXAMPLE / "models" / "tiny"


class RunsCode:
    """What a malicious checkpoint holds: unpickling it would create a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def silent_film(path: Path) -> None:
    """An mp4 with a sound track and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with everything that can be wrong."""
    monkeypatch.chdir(tmp_path)
    Path("no_caption.csv").write_text("video,text\na.mp4,hello\n")
    Path("audio.csv").write_text("video,caption\naudio.mp4,hello\n")
    Path("outside.csv").write_text("video,caption\n../../secret.mp4,hello\n")
    Path("good.csv").write_text("video,caption\na.mp4,hello\n")
    Path("empty.csv").write_text("")
    Path("empty.txt").write_text("\n  \n")
    Path("prompts.csv").write_text("text\nhello\n")
    Path("unknown.yaml").write_text("train:\n  batchsize: 3\n")
    Path("list.yaml").write_text("- 1\n- 2\n")
    Path("broken.yaml").write_text("train: {batch_size: 3\n")
    Path("file").write_text("a file where a folder should be")
    silent_film(Path("audio.mp4"))
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    for folder in ("cut", "evil", "other"):
        Path(folder).mkdir()
        shutil.copy(MODELS / "stdit3" / "config.json", folder)
    Path("cut/model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 7)
    shutil.copy(MODELS / "vae" / "model.safetensors", "other")
    with zipfile.ZipFile("evil/pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": RunsCode(tmp_path / "was_run")}, protocol=2))
    Path("no_tokenizer").mkdir()
    Path("no_tokenizer/config.json").write_text("{}")
    return tmp_path


SAMPLE = ["--config", str(TINY / "opensora_v1_2_sample.yaml"), "--seed", "1", "--captions", "a red circle moves left"]
VAE = ["--vae_checkpoint", str(MODELS / "vae")]
TRAIN = ["--csv_path", "good.csv", "--video_folder", ".", "--text_embed_folder", "text", *VAE, "--image_size", "64"]
GENERATE, TRAINING = "generate", "train"

WRONG = {
    "unknown flag": (TRAINING, [*TRAIN, "--batchsize", "3"], "batch_size"),
    "bad type": (TRAINING, [*TRAIN, "--batch_size", "many"], "batch_size"),
    "not a choice": (TRAINING, [*TRAIN, "--scheduler", "cosin_decay"], "cosine_decay"),
    "missing recipe": (TRAINING, ["--config", "missing.yaml"], "missing.yaml"),
    "unknown key": (TRAINING, ["--config", "unknown.yaml", *TRAIN], "unknown.yaml"),
    "recipe is a list": (TRAINING, ["--config", "list.yaml", *TRAIN], "list.yaml"),
    "broken recipe": (TRAINING, ["--config", "broken.yaml", *TRAIN], "broken.yaml"),
    "missing table": (TRAINING, [*TRAIN, "--csv_path", "missing.csv"], "missing.csv"),
    "table without the column": (TRAINING, [*TRAIN, "--csv_path", "no_caption.csv"], "caption"),
    "empty table": (TRAINING, [*TRAIN, "--csv_path", "empty.csv"], "empty.csv"),
    "path leaves its folder": (TRAINING, [*TRAIN, "--csv_path", "outside.csv"], "secret.mp4"),
    "masks exceed one": (TRAINING, [*TRAIN, "--mask_ratios", "{random: 0.9, image_head: 0.9}"], "mask_ratios"),
    "buckets": (TRAINING, [*TRAIN[:-2], "--bucket_config", "{145p: {1: [1.0, 2]}}"], "145p"),
    "nothing to resume": (TRAINING, [*TRAIN, "--resume", "nowhere"], "nowhere"),
    "no NPU": (GENERATE, [*SAMPLE, "--device_target", "Ascend"], "Ascend"),
    "parallel without a launcher": (GENERATE, [*SAMPLE, "--use_parallel", "True"], "mindone.parallel.launch"),
    "empty prompt file": (GENERATE, [*SAMPLE, "--prompt_path", "empty.txt"], "empty.txt"),
    "prompt table without captions": (GENERATE, [*SAMPLE, "--prompt_path", "prompts.csv"], "caption"),
    "size not divisible": (GENERATE, [*SAMPLE, "--image_size", "60", "64"], "60"),
    "impossible length": (GENERATE, [*SAMPLE, "--num_frames", "5minutes"], "num_frames"),
    "half a named size": (GENERATE, [*SAMPLE, "--resolution", "480p"], "aspect_ratio"),
    "missing weights": (GENERATE, [*SAMPLE, "--ckpt_path", "missing.safetensors"], "missing.safetensors"),
    "weights cut short": (GENERATE, [*SAMPLE, "--ckpt_path", "cut"], "cut"),
    "weights that run code": (GENERATE, [*SAMPLE, "--ckpt_path", "evil"], "pytorch_model.bin"),
    "weights of something else": (GENERATE, [*SAMPLE, "--ckpt_path", "other"], "x_embedder"),
    "no tokenizer": (GENERATE, [*SAMPLE, "--t5_model_name_or_path", "no_tokenizer"], "no_tokenizer"),
    "output is a file": (GENERATE, [*SAMPLE, "--output_path", "file"], "file"),
    "clips with nothing new": (GENERATE, [*SAMPLE, "--loop", "2"], "condition_frame_length"),
    "a reference without a task": (GENERATE, [*SAMPLE, "--reference_path", "no.png"], "--task"),
    "a missing reference": (GENERATE, [*SAMPLE, "--reference_path", "no.png", "--task", "i2v"], "no.png"),
    "an option of a prompt": (GENERATE, [*SAMPLE[:-1], "a red circle --fast 3"], "--fast"),
    "sound without a picture": (
        "embed-video",
        ["--csv_path", "audio.csv", "--video_folder", ".", "--output_path", "out", "--image_size", "64", *VAE],
        "audio.mp4",
    ),
    "unknown suffix": ("convert", ["--src", "cut", "--target", "out.onnx"], "out.onnx"),
}


@pytest.mark.parametrize("use", WRONG)
def test_wrong_use_ends_with_one_clear_line(use, place, capsys):
    name, arguments, named = WRONG[use]
    before = sorted(path for path in place.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        enter(name, arguments)
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert named in lines[0]
    assert not (place / "was_run").exists(), "a checkpoint ran code"
    written = [path for path in sorted(place.rglob("*")) if path not in before and path.is_file()]
    assert [path for path in written if path.suffix not in (".csv", ".txt", ".yaml")] == []
