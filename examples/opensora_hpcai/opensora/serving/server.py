"""``opensora serve``: videos by HTTP, with the requests of OpenAI's videos endpoint.

Every answer that is no video is JSON, and every error is ``{"error": {"message", "type", "param", "code"}}``.
"""

from __future__ import annotations

import hmac
import json
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from mindone import signals
from mindone.errors import UserError
from opensora.config import ServeConfig
from opensora.config.serving import Listening, Making
from opensora.serving.process import WorkerProcess
from opensora.serving.queue import QueueFull, VideoQueue
from opensora.serving.requests import FIELDS, MODEL, PROMPT, REFERENCE, BadField, settings_of, shown
from opensora.serving.settings import models_of

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, Response

    from opensora.serving.jobs import VideoJob

logger = logging.getLogger(__name__)

MEGABYTE = 1_000_000
LISTED = 20
MOST_LISTED = 100
RETRY_SECONDS = 10
STOP_SECONDS = 5
BACKLOG = 2048
NAMES_OF_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def serve(config: ServeConfig) -> None:
    """Serves until Ctrl+C or SIGTERM; what waits then is made after the next start.

    Raises:
        UserError: packages are missing, a recipe cannot be read, the port is taken.
    """
    require_packages()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    videos = open_queue(config.making)
    with signals.listening() as received:
        server, thread = start_server(application(videos, config.listening), config.listening)
        videos.start()
        logger.info("listening at %s for %s; Ctrl+C ends it", address(server), ", ".join(videos.models))
        received.get()
        logger.info("the server ends; what waits is made after the next start")
        server.should_exit = True
        thread.join(STOP_SECONDS)
        videos.close()


def require_packages() -> None:
    """
    Raises:
        UserError: what the extra ``web`` brings is not installed.
    """
    try:
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f'serving needs {error.name}; pip install "mindone[web]"') from error


def open_queue(making: Making) -> VideoQueue:
    """The queue of a folder, whose worker starts with the first video."""
    models = models_of(making.recipes)
    return VideoQueue(making.output_path, models, WorkerProcess(), making.queue_size, making.preview_every)


def start_server(app: Starlette, listening: Listening) -> tuple[uvicorn.Server, threading.Thread]:
    """Serves an application in a thread of its own; returns once it listens.

    Raises:
        UserError: the address cannot be had.
    """
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(app, listening.host, listening.port, log_level="warning", timeout_graceful_shutdown=STOP_SECONDS)
    )
    try:
        socket = server.config.bind_socket()
        # From here on who asks is heard, if not yet answered.
        socket.listen(BACKLOG)
    except (OSError, SystemExit) as error:
        raise UserError(f"port={listening.port} of {listening.host} cannot be had; give another --port") from error
    thread = threading.Thread(target=server.run, args=([socket],), name="http", daemon=True)
    server.bound = socket
    thread.start()
    return server, thread


def address(server: uvicorn.Server) -> str:
    host, port = server.bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1/videos"


# --- answers ---------------------------------------------------------------------------------------------------------


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", param: str | None = None):
        super().__init__(message)
        self.status, self.message, self.kind, self.param = status, message, kind, param


def refusal(error: Refusal) -> JSONResponse:
    """The one shape of errors."""
    from starlette.responses import JSONResponse

    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": str(RETRY_SECONDS)}}.get(error.status)
    body = {"message": error.message, "type": error.kind, "param": error.param, "code": error.status}
    return JSONResponse({"error": body}, error.status, headers)


def application(videos: VideoQueue, listening: Listening) -> Starlette:
    """The endpoints over a queue."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.routing import Route

    endpoints = Endpoints(videos, listening)

    def told(request: Request, error: HTTPException) -> JSONResponse:
        return refusal(Refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))

    def failed(request: Request, error: Exception) -> JSONResponse:
        return refusal(Refusal(500, "the server failed; its log says why", "server_error"))

    routes = [
        Route("/v1/models", endpoints.models, methods=["GET"]),
        Route("/v1/videos", endpoints.list, methods=["GET"]),
        Route("/v1/videos", endpoints.create, methods=["POST"]),
        Route("/v1/videos/{id}", endpoints.show, methods=["GET"]),
        Route("/v1/videos/{id}", endpoints.delete, methods=["DELETE"]),
        Route("/v1/videos/{id}/content", endpoints.content, methods=["GET"]),
        Route("/health", endpoints.health, methods=["GET"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=endpoints.guard)],
        exception_handlers={HTTPException: told, Refusal: lambda _, error: refusal(error), Exception: failed},
    )


class Endpoints:
    """What the addresses answer."""

    def __init__(self, videos: VideoQueue, listening: Listening):
        self.videos, self.listening = videos, listening

    async def guard(self, request: Request, answer) -> Response:
        """Refuses who does not know the token, and pages of other sites that use the browser of this machine."""
        try:
            self._require_token(request)
            self._require_own_site(request)
        except Refusal as error:
            return refusal(error)
        return await answer(request)

    def _require_token(self, request: Request) -> None:
        secret = self.listening.secret
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if secret and not hmac.compare_digest(given, secret.encode()):
            raise Refusal(401, "give the token as Authorization: Bearer TOKEN", "authentication_error")

    def _require_own_site(self, request: Request) -> None:
        host = request.headers.get("host", "")
        if self.listening.is_local and urlsplit(f"//{host}").hostname not in NAMES_OF_THIS_MACHINE:
            raise Refusal(403, f"this server is not called {host[:100]}", "permission_error")
        origin = request.headers.get("origin")
        if origin and urlsplit(origin).netloc != host:
            raise Refusal(403, f"pages of {origin[:100]} may not ask", "permission_error")

    async def models(self, request: Request) -> JSONResponse:
        listed = [{"id": name, "object": "model", "owned_by": "opensora"} for name in self.videos.models]
        return _json({"object": "list", "data": listed})

    async def health(self, request: Request) -> JSONResponse:
        jobs = self.videos.jobs()
        return _json({status: sum(job.status == status for job in jobs) for status in ("queued", "in_progress")})

    async def create(self, request: Request) -> JSONResponse:
        from starlette.concurrency import run_in_threadpool

        fields, references = await self._read(request)
        try:
            settings = settings_of(fields)
            job = await run_in_threadpool(self.videos.submit, fields.get(MODEL) or None, settings, references)
        except BadField as error:
            raise Refusal(400, str(error), param=error.field) from error
        except UserError as error:
            raise Refusal(400, str(error), param=_named(str(error))) from error
        except QueueFull as error:
            raise Refusal(429, str(error), "rate_limit_error") from error
        return self._shown(job)

    async def _read(self, request: Request) -> tuple[dict[str, object], Sequence[tuple[str, BinaryIO]]]:
        """Fields and files of a form, or fields of a JSON object."""
        from starlette.datastructures import UploadFile

        length, limit = request.headers.get("content-length", ""), self.listening.max_upload_mb * MEGABYTE
        if not length.isdecimal():
            raise Refusal(411, "the request does not say its Content-Length")
        if int(length) > limit:
            raise Refusal(413, f"the request has {int(length):,} bytes; {limit:,} are allowed")
        if not request.headers.get("content-type", "").startswith(("multipart/", "application/x-www-form-urlencoded")):
            return await _json_fields(request), []
        form = await request.form(max_files=8, max_fields=2 * len(FIELDS))
        fields, references = {}, []
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields[name] = value
            elif name.removesuffix("[]") != REFERENCE:
                raise Refusal(400, f"the file '{name}' is not asked for; send it as {REFERENCE}", param=name)
            else:
                references.append((value.filename or "", value.file))
        if REFERENCE in fields:
            raise Refusal(400, f"{REFERENCE} has to be a file", param=REFERENCE)
        return fields, references

    async def list(self, request: Request) -> JSONResponse:
        try:
            limit = int(request.query_params.get("limit", LISTED))
        except ValueError:
            limit = 0
        if not 1 <= limit <= MOST_LISTED:
            raise Refusal(400, f"limit has to be between 1 and {MOST_LISTED}", param="limit")
        jobs, after = self.videos.jobs()[::-1], request.query_params.get("after")
        if after:
            places = [place for place, job in enumerate(jobs) if job.id == after]
            if not places:
                raise Refusal(404, f"there is no video {after[:100]}", param="after")
            jobs = jobs[places[0] + 1 :]
        data = [self._values(job) for job in jobs[:limit]]
        return _json({"object": "list", "data": data, "has_more": len(jobs) > limit})

    async def show(self, request: Request) -> JSONResponse:
        return self._shown(self._job(request))

    async def content(self, request: Request) -> FileResponse:
        from starlette.responses import FileResponse

        job = self._job(request)
        if job.status in ("queued", "in_progress"):
            raise Refusal(409, f"{job.id} is not finished yet: {job.status}")
        path = self.videos.file(job)
        if path is None:
            raise Refusal(404, f"{job.id} has no video: {job.error or job.status}")
        return FileResponse(path, filename=path.name)

    async def delete(self, request: Request) -> JSONResponse:
        from starlette.concurrency import run_in_threadpool

        job = self._job(request)
        await run_in_threadpool(self.videos.delete, job.id)
        return _json({"id": job.id, "object": "video.deleted", "deleted": True})

    def _job(self, request: Request) -> VideoJob:
        name = request.path_params["id"]
        job = self.videos.get(name)
        if job is None:
            raise Refusal(404, f"there is no video {name[:100]}", param="id")
        return job

    def _values(self, job: VideoJob) -> dict[str, object]:
        return shown(job, self.videos.progress(job), self.videos.place(job))

    def _shown(self, job: VideoJob) -> JSONResponse:
        return _json(self._values(job))


async def _json_fields(request: Request) -> dict[str, object]:
    try:
        fields = json.loads(await request.body())
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise Refusal(400, f'the request has to be a form or a JSON object, such as {{"{PROMPT}": "a red circle"}}')
    if REFERENCE in fields:
        raise Refusal(400, f"send {REFERENCE} as a file of a form", param=REFERENCE)
    return fields


def _json(content: dict[str, object]) -> JSONResponse:
    from starlette.responses import JSONResponse

    return JSONResponse(content)


def _named(message: str) -> str | None:
    """The field that a message begins with, as in ``num_frames=0 has to be...``."""
    name = message.partition("=")[0].strip()
    return name if name in FIELDS else None
