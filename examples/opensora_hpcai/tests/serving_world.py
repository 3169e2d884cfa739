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

    work({"generate": stub})
