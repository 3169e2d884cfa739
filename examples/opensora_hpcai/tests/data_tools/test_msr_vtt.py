"""MSR-VTT to an arrow data set: splits, text states, what is left out, and scripts by their published names."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindone.data.write import write_video
from opensora.cli import enter, open_door
from opensora.text.encoder import TextEmbeddings, TextEncoder

SCRIPTS = Path(__file__).parents[2] / "scripts" / "data"
VIDEOS = [
    {"video_id": "video0", "split": "train", "category": 9},
    {"video_id": "video1", "split": "validate", "category": 1},
    {"video_id": "video2", "split": "train", "category": 2},
]
SENTENCES = [
    {"video_id": "video0", "caption": "a red circle"},
    {"video_id": "video1", "caption": "a blue square"},
    {"video_id": "video0", "caption": "a circle moves"},
    {"video_id": "video2", "caption": "nobody has this film"},
]


def film(path, count=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.full((count, 32, 32, 3), 90, np.uint8), 8)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    for name in ("video0", "video1"):
        film(folder / "TrainValVideo" / f"{name}.mp4")
    (folder / "train_val_videodatainfo.json").write_text(json.dumps({"videos": VIDEOS, "sentences": SENTENCES}))
    return folder


class Lengths:
    """Stands in for CLIP: a state says how long its text is, which has as many tokens as words."""

    encoded: list[str] = []

    def encode(self, texts):
        self.encoded += texts
        states = np.full((len(texts), 8, 4), [[[len(text)]] for text in texts], np.float32)
        mask = np.arange(8) < np.array([[len(text.split())] for text in texts])
        return TextEmbeddings(states, mask.astype(np.uint8), mask.astype(np.int32), states[:, 0])


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A list with a whole film of two captions, a long one, one without text and one that is not there."""
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(TextEncoder, "from_folder", lambda *_, **__: Lengths())
    monkeypatch.setattr(Lengths, "encoded", [])
    film(tmp_path / "videos" / "a.mp4")
    film(tmp_path / "videos" / "silent.mp4")
    film(tmp_path / "videos" / "long.mp4", 9)
    entries = {"a.mp4": ["a red circle", "it moves"], "long.mp4": ["too long"], "silent.mp4": [], "no.mp4": ["x"]}
    captions = tmp_path / "annotations.json"
    captions.write_text(json.dumps([{"file": name, "captions": texts} for name, texts in entries.items()]))
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"model_type": "clip"}')
    flags = {"captions": captions, "video_dir": tmp_path / "videos", "output_dir": tmp_path / "set"}
    flags |= {"text_model": tmp_path / "clip", "max_frames": 5, "num_bins": 2, "workers": 0, "device_target": "CPU"}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def preprocess(*flags):
    return open_door("data preprocess", flags, "preprocess_data.py")


def rows(part):
    import pyarrow

    with pyarrow.ipc.open_stream(part / "data-00000-of-00001.arrow") as stream:
        return stream.read_all().to_pylist()


def test_each_split_gets_its_videos_and_captions(raw, tmp_path, caplog):
    out = raw / "splits"
    assert open_door("data collate", ["--data_dir", str(raw), "--output_dir", str(out)], "") == {"train": 2, "val": 1}
    again = open_door("data collate", ["--data_dir", str(raw), "--output_dir", str(out)], "")
    assert again == {"train": 2, "val": 1}
    assert json.loads((out / "train" / "annotations.json").read_text()) == [
        {"file": "video0.mp4", "captions": ["a red circle", "a circle moves"]},
        {"file": "video2.mp4", "captions": ["nobody has this film"]},
    ]
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.mp4"))
    assert found == ["train/videos/video0.mp4", "val/videos/video1.mp4"]
    assert "1 of 2 videos have no file, such as video2.mp4" in caplog.text


def test_annotations_without_splits_are_split_by_the_numbers_of_the_videos(tmp_path):
    ids = ["video6512", "video6513", "video7010"]
    content = {"images": [{"id": name} for name in ids], "annotations": [{"image_id": ids[0], "caption": "a cat"}]}
    (tmp_path / "MSR_VTT.json").write_text(json.dumps(content))
    flags = ["--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    assert open_door("data collate", flags, "") == {"train": 1, "val": 1, "test": 1}
    assert json.loads((tmp_path / "out" / "train" / "annotations.json").read_text())[0]["captions"] == ["a cat"]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"split": "../train"}, "video0.mp4 is of the split ../train, but MSR-VTT has train"),
        ({"split": "", "video_id": "film"}, "film.mp4 says no split, and is not called after its number"),
    ],
)
def test_foreign_annotations_are_refused(tmp_path, change, reason, capsys):
    (tmp_path / "a.json").write_text(json.dumps({"videos": [VIDEOS[0] | change], "sentences": []}))
    with pytest.raises(SystemExit):
        enter("data collate", ["--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")])
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_captions_become_states_of_their_tokens_and_the_rest_is_told(data, tmp_path, caplog):
    assert preprocess(*data).written == 2
    first, second = rows(tmp_path / "set" / "part-00000"), rows(tmp_path / "set" / "part-00001")
    assert [row["video_file"] for row in first + second] == ["a.mp4", "a.mp4"]
    assert first[0]["text_latent_states"] == [[12.0] * 4] * 3
    assert second[0]["text_latent_states"] == [[8.0] * 4] * 2
    for reason in ("1 rows are left out: they have a problem", "have more than 5 frames", "no text"):
        assert reason in caplog.text


def test_pooled_text_is_one_vector(data, tmp_path):
    preprocess(*data, "--use_pooled_text", "True", "--num_bins", "1")
    assert rows(tmp_path / "set" / "part-00000")[0]["text_latent_states"] == [12.0] * 4


def test_only_what_is_not_complete_is_encoded_again(data, tmp_path):
    preprocess(*data)
    part = tmp_path / "set" / "part-00001"
    whole = (part / "data-00000-of-00001.arrow").read_bytes()
    (part / "state.json").unlink()
    Lengths.encoded.clear()
    counts = preprocess(*data)
    assert (counts.written, counts.skipped, Lengths.encoded) == (1, 1, ["it moves"])
    assert (part / "data-00000-of-00001.arrow").read_bytes() == whole


def test_parts_of_other_settings_are_made_anew(data):
    preprocess(*data)
    assert preprocess(*data, "--max_length", "4").written == 2


def test_the_library_datasets_reads_a_part(data, tmp_path):
    datasets = pytest.importorskip("datasets")
    preprocess(*data, "--num_bins", "1")
    part = datasets.load_from_disk(str(tmp_path / "set" / "part-00000"))
    assert part.column_names == ["video_file", "text_latent_states"]
    assert part[1] == {"video_file": "a.mp4", "text_latent_states": [[8.0] * 4] * 2}


def test_t5_has_no_pooled_text(data, tmp_path, capsys):
    (tmp_path / "clip" / "config.json").write_text('{"d_model": 4}')
    with pytest.raises(SystemExit):
        enter("data preprocess", [*data, "--use_pooled_text", "True"])
    assert "T5, which has no pooled vector" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["collate_msr_vtt_dataset.py", "preprocess_data.py"])
def test_scripts_take_their_short_flags(script):
    done = subprocess.run([sys.executable, SCRIPTS / script, "-o", "out"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "output" not in done.stderr and "is not set; give" in done.stderr


def test_the_download_says_what_it_would_fetch(tmp_path):
    script, environment = SCRIPTS / "download_msr_vtt_dataset.sh", {"PATH": "/usr/bin:/bin", "DRY_RUN": "1"}
    command = ["bash", script, tmp_path / "raw"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "MSRVTT.zip" in done.stdout and not (tmp_path / "raw").exists()
