"""Settings of the commands that stay and wait for requests: the server, and the page in a browser."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from typing import ClassVar

from mindone.config import FilePath, SettingError, Settings, require, require_at_least

TOKEN_VARIABLE = "OPENSORA_TOKEN"


@dataclass
class Making:
    """What can be made, and where it goes."""

    recipes: list[FilePath] = field(default_factory=lambda: ["configs/tiny/opensora_v1_2_sample.yaml"])
    """recipes of inference.py, one per model; a request names one by its file name without .yaml, the first is usual"""
    output_path: FilePath = "samples/served"
    """folder with a folder per video; what waits there from an earlier start is made, too"""
    queue_size: int = 64
    """videos that may wait; further ones are refused until there is room"""
    preview_every: int = 0
    """every so many steps, a small picture of the latents beside the video; 0: none"""

    def check(self) -> None:
        require(self, "recipes", bool(self.recipes), "one recipe or more")
        require_at_least(self, queue_size=1, preview_every=0)


@dataclass
class Listening:
    """Where requests come in."""

    host: str = "127.0.0.1"
    """address to listen at; any other than this machine's own (127.0.0.1) needs a token"""
    port: int = 8000
    """port to listen at; 0: any that is free"""
    token: str | None = None
    """what those who ask have to know; taken from the environment, OPENSORA_TOKEN, if not given, where other users of
    this machine do not see it"""
    max_upload_mb: int = 64
    """largest request, in units of 1,000,000 bytes: given pictures and clips"""

    @property
    def secret(self) -> str | None:
        """The token, wherever it was given."""
        return self.token or os.environ.get(TOKEN_VARIABLE) or None

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can ask."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        require(self, "port", 0 <= self.port <= 65535, "between 0 and 65535")
        require_at_least(self, max_upload_mb=1)
        if not self.is_local and not self.secret:
            raise SettingError(
                f"host={self.host} may be reached from other machines; give a token as {TOKEN_VARIABLE} or --token, or "
                "leave host at 127.0.0.1",
                "host",
            )


@dataclass
class ServeConfig(Settings):
    """Videos by HTTP, with the requests of OpenAI's videos endpoint."""

    making: Making = field(default_factory=Making)
    listening: Listening = field(default_factory=Listening)

    aliases: ClassVar[dict[str, str]] = {"recipe": "recipes"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}


@dataclass
class WebConfig(Settings):
    """A page in the browser: prompts, pictures and settings, a queue with previews, and what was made so far."""

    making: Making = field(default_factory=lambda: Making(preview_every=2))
    listening: Listening = field(default_factory=lambda: Listening(port=7860))

    aliases: ClassVar[dict[str, str]] = {"recipe": "recipes"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}
