"""Downloads from a hub on this machine, which speaks as much of the hub's interface as a model needs."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from mindone.checkpoint import read_tensors, save_safetensors
from mindone.checkpoint.download import RemoteFile, convert_folder, fetch_model, wanted
from mindone.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "studio/tiny"


class Hub(BaseHTTPRequestHandler):
    """Answers for one model at one commit; ``files`` maps paths to bytes, ``requests`` lists what was asked for."""

    files: dict[str, bytes] = {}
    requests: list[str] = []
    published: dict[str, str] = {}
    """SHA-256 by path, where it is not that of the content"""

    def log_message(self, *_):
        pass

    def do_HEAD(self):  # noqa: N802
        self.answer(with_body=False)

    def do_GET(self):  # noqa: N802
        self.answer(with_body=True)

    def answer(self, with_body: bool):
        type(self).requests.append(f"{self.command} {self.path}")
        if self.path.startswith(f"/api/models/{MODEL}"):
            return self.send(json.dumps(self.description()).encode(), {"Content-Type": "application/json"}, with_body)
        name = self.path.partition(f"/{MODEL}/resolve/{COMMIT}/")[2].partition("?")[0]
        if name not in self.files:
            return self.send(b"", {"X-Error-Code": "EntryNotFound"}, with_body, 404)
        content = self.files[name]
        return self.send(content, {"ETag": f'"{self.digest(name)}"', "X-Repo-Commit": COMMIT}, with_body)

    def digest(self, name: str) -> str:
        return self.published.get(name) or hashlib.sha256(self.files[name]).hexdigest()

    def description(self) -> dict:
        siblings = []
        for name, content in self.files.items():
            about = {"rfilename": name, "size": len(content), "blobId": "0"}
            if not name.endswith(".json"):
                about["lfs"] = {"sha256": self.digest(name), "size": len(content), "pointerSize": 100}
            siblings.append(about)
        return {
            "_id": "0",
            "id": MODEL,
            "modelId": MODEL,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
            "downloads": 0,
        }

    def send(self, content: bytes, headers: dict[str, str], with_body: bool, status: int = 200):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(Hub, "files", {"config.json": b"{}"})
    monkeypatch.setattr(Hub, "requests", [])
    monkeypatch.setattr(Hub, "published", {})
    yield Hub
    server.shutdown()
    server.server_close()


def safetensors(tmp_path, **arrays) -> bytes:
    save_safetensors(tmp_path / "made.safetensors", arrays)
    return (tmp_path / "made.safetensors").read_bytes()


def lines_of(function, *args, **kwargs) -> list[str]:
    lines: list[str] = []
    function(*args, **kwargs, say=lines.append)
    return lines


def test_files_arrive_with_their_commit_and_sums_and_a_second_run_fetches_nothing_again(hub, tmp_path):
    hub.files["model.safetensors"] = safetensors(tmp_path, w=np.arange(6, dtype=np.float32))
    target = tmp_path / "models" / "tiny"
    lines = lines_of(fetch_model, MODEL, target)
    assert COMMIT in lines[0]
    assert hashlib.sha256(hub.files["model.safetensors"]).hexdigest() in "\n".join(lines)
    np.testing.assert_array_equal(read_tensors(target)["w"], np.arange(6))

    hub.requests.clear()
    fetch_model(MODEL, target, say=lines.append)
    assert not [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]


def test_shards_of_pytorch_become_safetensors_with_an_index(hub, tmp_path, torch_save):
    shards = {"a": np.ones(3, np.float32), "b": np.zeros((2, 2), np.float32)}
    for number, (name, array) in enumerate(shards.items(), 1):
        shard = torch_save(tmp_path / "made.bin", {name: array}).read_bytes()
        hub.files[f"text_encoder/pytorch_model-0000{number}-of-00002.bin"] = shard
    weight_map = {name: f"pytorch_model-0000{number}-of-00002.bin" for number, name in enumerate(shards, 1)}
    index = {"metadata": {"total_size": 28}, "weight_map": weight_map}
    hub.files["text_encoder/pytorch_model.bin.index.json"] = json.dumps(index).encode()
    fetch_model(MODEL, tmp_path / "model", say=lambda line: None)
    folder = tmp_path / "model" / "text_encoder"
    assert (folder / "model-00001-of-00002.safetensors").is_file()
    tensors = read_tensors(folder)
    assert tensors.path.name == "model.safetensors.index.json"
    for name, array in shards.items():
        np.testing.assert_array_equal(tensors[name], array)


def test_a_file_that_is_not_as_published_is_removed(hub, tmp_path):
    hub.files["model.safetensors"] = safetensors(tmp_path, w=np.zeros(2, np.float32))
    hub.published["model.safetensors"] = "0" * 64
    with pytest.raises(UserError, match="arrived damaged"):
        fetch_model(MODEL, tmp_path / "model", say=lambda line: None)
    assert not (tmp_path / "model" / "model.safetensors").exists()


def test_without_network_only_what_is_there_is_used(hub, tmp_path, monkeypatch, save_zip):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set and .* has no weights of studio/tiny yet"):
        fetch_model(MODEL, tmp_path / "model")
    (tmp_path / "model").mkdir()
    save_zip(tmp_path / "model" / "pytorch_model.bin", {"w": np.ones(2, np.float32)})
    fetch_model(MODEL, tmp_path / "model", say=lambda line: None)
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert hub.requests == []


@pytest.mark.parametrize("model_id", ["nothing", "../etc/passwd", "a/b/c", "studio/none"])
def test_a_model_that_is_not_there_ends_in_one_line(hub, tmp_path, model_id):
    with pytest.raises(UserError, match="not a model of a hub|cannot fetch studio/none") as error:
        fetch_model(model_id, tmp_path / "model")
    assert "\n" not in str(error.value)


def test_one_format_of_the_weights_is_fetched():
    names = [
        *("README.md", "model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "tf_model.h5"),
        *(
            "vae/diffusion_pytorch_model.bin",
            "vae/config.json",
            "text/pytorch_model.bin.index.json",
            "text/x.safetensors",
        ),
    ]
    kept = [file.name for file in wanted([RemoteFile(name, 1, None) for name in names])]
    assert kept == [
        "README.md",
        "model.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "vae/config.json",
        "text/x.safetensors",
    ]
    assert [file.name for file in wanted([RemoteFile(name, 1, None) for name in names], "vae/*")] == kept[2:4]


def test_what_a_trainer_left_beside_the_weights_is_neither_fetched_nor_converted(tmp_path, save_zip):
    names = ["pytorch_model.bin", "optimizer.bin", "scheduler.bin", "training_args.bin", "rng_state.pth"]
    kept = [file.name for file in wanted([RemoteFile(name, 1, None) for name in names])]
    assert kept == ["pytorch_model.bin"]
    save_zip(tmp_path / "pytorch_model.bin", {"w": np.zeros(2, np.float32)})
    save_zip(tmp_path / "optimizer.bin", {"state": {"0": {"exp_avg": np.zeros(2, np.float32)}}, "param_groups": ()})
    convert_folder(tmp_path, say=lambda line: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.safetensors",
        "optimizer.bin",
        "pytorch_model.bin",
    ]
