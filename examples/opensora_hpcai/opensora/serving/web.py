"""``opensora web``: the page in a browser, and the worker behind it."""

from __future__ import annotations

import hmac
import logging
from typing import TYPE_CHECKING

from mindone import signals
from mindone.errors import UserError
from opensora.config import WebConfig
from opensora.config.serving import Listening
from opensora.serving.process import WorkerProcess
from opensora.serving.queue import VideoQueue
from opensora.serving.server import open_queue, require_packages

if TYPE_CHECKING:
    import gradio

logger = logging.getLogger(__name__)

# No fonts from elsewhere: the page works without a network.
FONTS = ("system-ui", "sans-serif")


def web(config: WebConfig) -> None:
    """Shows the page until Ctrl+C or SIGTERM; what waits then is made after the next start.

    Raises:
        UserError: packages are missing, a recipe cannot be read, the port is taken.
    """
    require_packages()
    _require_gradio()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    videos, forecaster = open_queue(config.making), WorkerProcess()
    with signals.listening() as received:
        blocks, url = show(videos, forecaster, config.listening)
        videos.start()
        logger.info("the page is at %s for %s; Ctrl+C ends it", url, ", ".join(videos.models))
        received.get()
        logger.info("the page ends; what waits is made after the next start")
        videos.close()
        forecaster.close()
        blocks.close(verbose=False)


def _require_gradio() -> None:
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError('the page needs gradio; pip install "mindone[web]"') from error


def show(videos: VideoQueue, forecaster: WorkerProcess, listening: Listening) -> tuple[gradio.Blocks, str]:
    """Serves the page in threads of its own; returns it and its address.

    Raises:
        UserError: the address cannot be had.
    """
    import gradio as gr

    from opensora.serving.page import Page

    blocks = Page(videos, forecaster).build()
    secret = listening.secret
    try:
        _, url, _ = blocks.launch(
            server_name=listening.host,
            server_port=listening.port or None,
            auth=(lambda _, password: hmac.compare_digest(password.encode(), secret.encode())) if secret else None,
            auth_message="any name, and the token as password" if secret else None,
            prevent_thread_lock=True,
            share=False,
            quiet=True,
            ssr_mode=False,
            enable_monitoring=False,
            show_error=True,
            allowed_paths=[str(videos.folder)],
            max_file_size=f"{listening.max_upload_mb}mb",
            theme=gr.themes.Default(font=list(FONTS), font_mono=["monospace"]),
            footer_links=[],
        )
    except OSError as error:
        raise UserError(f"port={listening.port} of {listening.host} cannot be had; give another --port") from error
    return blocks, url
