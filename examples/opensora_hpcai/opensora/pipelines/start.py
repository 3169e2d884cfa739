"""How every command begins: log lines on screen, device, mode and ranks."""

from __future__ import annotations

import logging
from typing import Any

from mindone import runtime


def start(config: Any) -> runtime.Runtime:
    """Sets up logging and the runtime from the settings of `opensora.config.common.Runtime`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return runtime.setup(
        config.device_target,
        graph=config.mode == 0 and not config.debug,
        use_parallel=config.use_parallel,
        max_device_memory=config.max_device_memory,
        jit_level=config.jit_level,
    )
