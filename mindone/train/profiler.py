"""Where the time of an update goes: a few of them under MindSpore's profiler."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

BEFORE, PROFILED = 2, 3
"""Updates of a process before the first one that is profiled (one compiles), and how many are."""


class ProfileUpdates:
    """What a loop does after every update (see `mindone.train.loop.Every`) to profile the third to fifth one.

    Args:
        folder: for what MindSpore writes, of which ``*/ASCEND_PROFILER_OUTPUT/trace_view.json`` can be opened in
            Perfetto or ``chrome://tracing``.
        left: updates of this process.
    """

    def __init__(self, folder: Path, left: int):
        self.folder, self.seen, self.profiler = folder, 0, None
        self.last = min(BEFORE + PROFILED, left)
        if left <= BEFORE:
            logger.warning("profile: a run of %d updates has none to profile; it needs more than %d", left, BEFORE)

    def __call__(self, step: int) -> None:
        """After update number ``step``."""
        self.seen += 1
        if self.profiler is not None:
            self.profiler.step()
            if self.seen == self.last:
                self.profiler.stop()
                self.profiler = None
                logger.info("updates %d to %d are profiled in %s", step - self.last + BEFORE + 1, step, self.folder)
        elif self.seen == BEFORE < self.last:
            self.profiler = self._started()

    def _started(self):
        from mindspore import profiler

        from mindone import runtime

        devices = [profiler.ProfilerActivity.CPU]
        if runtime.current().device == "Ascend":
            devices.append(profiler.ProfilerActivity.NPU)
        started = profiler.profile(
            activities=devices,
            schedule=profiler.schedule(wait=0, warmup=0, active=self.last - BEFORE, repeat=1),
            on_trace_ready=profiler.tensorboard_trace_handler(str(self.folder)),
        )
        started.start()
        return started
