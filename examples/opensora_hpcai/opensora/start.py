"""How every command begins: log lines on screen, device, mode and ranks."""

from __future__ import annotations

import logging

from mindone import runtime
from opensora.config.common import Device


def start(settings: Device) -> runtime.Runtime:
    """Sets up logging and the runtime."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return runtime.setup(
        settings.device_target,
        graph=settings.mode == 0 and not settings.debug,
        use_parallel=settings.use_parallel,
        max_device_memory=settings.max_device_memory,
        jit_level=settings.jit_level,
    )
