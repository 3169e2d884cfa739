"""A worker that makes files instead of videos, and a small client for the server."""

import contextlib
import http.client
import json
import os
import sys
import time
from pathlib import Path

from mindone.errors import UserError
from mindone.parallel.heartbeat import beat

EXAMPLE = Path(__file__).parents[1]
RECIPE = str(EXAMPLE / "configs/tiny/opensora_v1_2_sample.yaml")
MODEL = Path(RECIPE).stem
COMMAND = (sys.executable, __file__)


def stub(argv):
    """Writes the command line as the video; some prompts go wrong, and one is never finished."""
    values = dict(word.removeprefix("--").split("=", 1) for word in argv[2:])
    prompt = values["captions"]
    if prompt == "refuse":
        raise UserError("image_size=7x7 has no latents; use 8x8 or more")
    if prompt == "fail":
        raise RuntimeError("the device is gone\nand more")
    if prompt == "die":
        os._exit(9)
    if prompt == "wait":
        beat("denoising step 5 of 9")
        Path(values["output_path"], ".tmp-1-video.mp4").touch()
        time.sleep(600)
    print("libraries print")
    video = Path(values["output_path"], "000-stub.mp4")
    video.write_text(json.dumps(argv))
    return {"video": str(video)}


def stub_video(argv):
    """A short grey video and its JSON; the prompt ``wait`` shows a preview and is never finished."""
    import numpy as np

    from mindone.config import parse
    from mindone.data.write import write_png, write_video
    from opensora.config import GenerateConfig
    from opensora.outputs import write_json

    config = parse(GenerateConfig, argv)
    folder, prompt = Path(config.output.output_path), config.prompts.captions[0]
    if prompt == "wait":
        beat("denoising step 5 of 9")
        write_png(folder / "previews" / "000-step004.png", np.full((1, 64, 64, 3), 99, np.uint8))
        time.sleep(600)
    height, width = config.shape.image_size
    video = write_video(folder / "000-stub.mp4", np.full((4, height, width, 3), 128, np.uint8), 8)
    record = {"prompt": prompt, "seed": config.runtime.seed, "height": height, "width": width, "settings": config}
    write_json(video.with_suffix(".json"), {**record, "task": config.conditions.task})
    return {"video": str(video)}


class Client:
    """Requests to ``127.0.0.1:port``."""

    def __init__(self, port):
        self.port = port

    def ask(self, method, path, body=None, **headers):
        """The status, and JSON or bytes."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            if isinstance(body, dict):
                body, headers = json.dumps(body), {"Content-Type": "application/json", **headers}
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            content = answer.read()
            is_json = answer.headers["content-type"] == "application/json"
            return answer.status, json.loads(content) if is_json else content

    def create(self, prompt, **fields):
        status, answer = self.ask("POST", "/v1/videos", {"prompt": prompt, **fields})
        assert status == 200, answer
        return answer

    def wait(self, job_id, until=("completed", "failed", "cancelled")):
        while True:
            status, answer = self.ask("GET", f"/v1/videos/{job_id}")
            assert status == 200, answer
            if answer["status"] in until:
                return answer
            time.sleep(0.1)


def form(fields, files):
    """A body of ``multipart/form-data`` and its type."""
    parts = [f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()]
    body = "".join(parts).encode()
    for name, (file, content) in files.items():
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return body + b"--x--\r\n", "multipart/form-data; boundary=x"


if __name__ == "__main__":
    from opensora.serving.worker import work

    forecast = {"text": "17 frames of 64x64: about 3 s"}
    work({"generate": stub_video if sys.argv[1:] == ["video"] else stub, "forecast": lambda argv: forecast})
