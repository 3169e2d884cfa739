"""The processes of a job on one machine, from their start to the end of the last one.

What happens to one rank happens to all: a signal is passed on to every rank, and when one fails or hangs the others are
ended. Nothing is left behind: every process has a group of its own, which is killed in the end, also by the kernel when
the launcher itself is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mindone import signals
from mindone.parallel import heartbeat
from mindone.parallel.logs import Follower, last_lines

POLL_SECONDS = 0.2
# Ranks that fail together do so within this time; those that have not are told to end then.
TOGETHER_SECONDS = 1.0
# What is left of the others then: after a failure they wait in vain for the one that is gone, after a signal all leave.
FAILED_SECONDS, STOPPED_SECONDS = 10.0, 25.0
# When one hangs they wait for it, and it does not listen.
HUNG_SECONDS = 2.0
SCHEDULER_SECONDS = 15.0
EXIT_HANGS = 1
PR_SET_PDEATHSIG = 1


@dataclass
class Launched:
    """A process of this machine: a rank with its number here, or (None) the scheduler."""

    rank: int | None
    local: int = 0
    log: Path = Path()
    process: subprocess.Popen | None = None
    noted: bool = False
    """that it has ended"""
    beat: heartbeat.Beat | None = None
    since: float = 0.0
    """when this beat was seen first"""

    @property
    def name(self) -> str:
        return "the scheduler" if self.rank is None else f"rank {self.rank}"

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def code(self) -> int:
        """As shells count."""
        code = self.process.returncode
        return 128 - code if code < 0 else code

    @property
    def was_told(self) -> bool:
        """Whether it ended as one does by a signal to stop."""
        return self.code in [signals.exit_code(each) for each in signals.ENDING]

    @property
    def reason(self) -> str:
        code = self.process.returncode
        if code < 0:
            hint = " (by hand, or for lack of memory)" if code == -signal.SIGKILL else ""
            return f"was killed by {signal.Signals(-code).name}{hint}"
        return f"ended with exit code {code}"

    def send(self, number: signal.Signals) -> None:
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def kill(self) -> None:
        """Ends it and all that it has started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Job:
    """What is started on this machine.

    Args:
        ranks: of this machine.
        world_size: ranks of all machines.
        address, port: where the scheduler is.
        has_scheduler: it runs on this machine.
        several: there are other machines.
        hang_timeout: seconds; 0 waits for ever.
        cluster_timeout: seconds in which all ranks have to come.
        bind_core: each rank has its share of the cores.
    """

    ranks: Sequence[Launched]
    command: Sequence[str]
    world_size: int
    address: str
    port: int
    has_scheduler: bool
    several: bool
    log_dir: Path
    hang_timeout: float
    cluster_timeout: int
    bind_core: bool

    def environment(self, launched: Launched) -> dict[str, str]:
        """What MindSpore's cluster engine reads, and the rest of this process's environment."""
        rank = launched.rank
        found = {
            **os.environ,
            "MS_ROLE": "MS_SCHED" if rank is None else "MS_WORKER",
            "MS_WORKER_NUM": str(self.world_size),
            "MS_SCHED_HOST": self.address,
            "MS_SCHED_PORT": str(self.port),
            "MS_TOPO_TIMEOUT": str(self.cluster_timeout),
            "RANK_ID": str(rank or 0),
            "RANK_SIZE": str(self.world_size),
            "PYTHONUNBUFFERED": "1",
        }
        if rank is not None:
            found |= {"MS_NODE_ID": str(rank), "DEVICE_ID": str(launched.local)}
            found[heartbeat.VARIABLE] = str(self.heartbeat(launched))
            found.setdefault("GLOG_v", "3")
        return found

    def heartbeat(self, launched: Launched) -> Path:
        return self.log_dir.resolve() / f"heartbeat_{launched.rank}"

    def cores(self, launched: Launched) -> set[int]:
        """The cores that a process may use."""
        all_cores, ranks = sorted(os.sched_getaffinity(0)), len(self.ranks)
        if not self.bind_core or launched.rank is None:
            return set(all_cores)
        if len(all_cores) < ranks:
            return {all_cores[launched.local % len(all_cores)]}
        first, last = (len(all_cores) * (launched.local + i) // ranks for i in (0, 1))
        return set(all_cores[first:last])


@dataclass
class Supervisor:
    """Runs a job; see `run`."""

    job: Job
    scheduler: Launched | None = None
    screen: Follower | None = None
    asked: signal.Signals | None = None
    """to stop, by this signal"""
    failed: list[Launched] = field(default_factory=list)
    """those that ended by themselves and not well, the first one first"""
    hung: bool = False
    told: bool = False
    """the others to end, so what they end with means nothing"""
    reported: bool = False
    tell_at: float = float("inf")
    """when the others are told to end"""
    kill_at: float = float("inf")
    """when those are killed that have not"""

    def run(self) -> int:
        """Starts the job and waits for its end; what the first rank of this machine writes appears on the screen.

        Returns:
            The exit code: 0 if all ranks ended well, 130 or 143 if they were stopped by Ctrl+C or SIGTERM, else that of
            the first rank that failed, or 1 if one hung.
        """
        with signals.listening() as inbox:
            try:
                self._start()
                while any(each.is_alive for each in self.job.ranks):
                    if not self._listen(inbox):
                        return signals.exit_code(self.asked)
                    self._look()
                self._look()
                self._report()
                self._wait_for_scheduler(inbox)
            finally:
                self._end()
        return self._exit_code()

    def _start(self) -> None:
        job = self.job
        if job.has_scheduler:
            self.scheduler = Launched(None, log=job.log_dir / "scheduler.log")
            self._start_one(self.scheduler, [sys.executable, "-m", "mindone.parallel.scheduler"])
        for rank in job.ranks:
            rank.log = job.log_dir / f"worker_{rank.rank}.log"
            job.heartbeat(rank).unlink(missing_ok=True)
        self.screen = Follower(job.ranks[0].log)
        for rank in job.ranks:
            self._start_one(rank, job.command)
        say(
            f"{len(job.ranks)} of {job.world_size} processes are started, logs are in {job.log_dir}; "
            f"this is rank {job.ranks[0].rank}"
        )

    def _start_one(self, launched: Launched, command: Sequence[str]) -> None:
        with open(launched.log, "ab") as log:
            launched.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.job.environment(launched),
                start_new_session=True,
                preexec_fn=_prepare(self.job.cores(launched)),
            )

    def _listen(self, inbox: queue.SimpleQueue) -> bool:
        """Passes a signal on, if one comes soon; False if the job shall end at once."""
        try:
            received = inbox.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return True
        if received != signal.SIGUSR1:
            if self.asked is not None:
                say(f"{received.name} again: the job is ended at once")
                return False
            self.asked = received
            say(f"{received.name}: every rank finishes its step and saves; a second signal ends them at once")
        for rank in self.job.ranks:
            rank.send(received)
        return True

    def _look(self) -> None:
        """Sees what has become of the processes and does what follows from it."""
        self._follow()
        now = time.monotonic()
        for each in [*self.job.ranks, *([self.scheduler] if self.scheduler else [])]:
            if not each.is_alive and not each.noted:
                each.noted = True
                if each.rank is not None:
                    each.kill()
                if each.code:
                    self._note(each, now)
        self._look_for_hung(now)
        if now > self.tell_at:
            self.tell_at, self.told = float("inf"), True
            self._report()
            for rank in self.job.ranks:
                rank.send(signal.SIGTERM)
        if now > self.kill_at:
            left = [rank for rank in self.job.ranks if rank.is_alive]
            self.kill_at, self.told = float("inf"), True
            if self.asked and left:
                say(f"{_listed(left)} did not end after the others and will be killed")
            for rank in left:
                rank.kill()

    def _note(self, ended: Launched, now: float) -> None:
        """One has not ended well: the others are to follow."""
        if self.told:
            return
        if not (self.asked and ended.was_told):
            self.failed.append(ended)
            self.tell_at = min(self.tell_at, now + TOGETHER_SECONDS)
        left = STOPPED_SECONDS if ended.was_told else FAILED_SECONDS
        self.kill_at = min(self.kill_at, now + TOGETHER_SECONDS + left)

    def _look_for_hung(self, now: float) -> None:
        """A rank that waits for others is silent as well: of all silent ones, the one that is behind hangs."""
        limit, quiet = self.job.hang_timeout, []
        for rank in self.job.ranks:
            found = heartbeat.read(self.job.heartbeat(rank)) if limit > 0 and rank.is_alive else None
            if found is not None and found != rank.beat:
                rank.beat, rank.since = found, now
            elif found is not None and now - rank.since > 0.9 * limit:
                quiet.append(rank)
        if self.hung or self.failed or not any(now - rank.since > limit for rank in quiet):
            return
        self.hung, self.told, self.kill_at = True, True, now + TOGETHER_SECONDS + HUNG_SECONDS
        stopped = [rank for rank in quiet if _is_stopped(rank.process.pid)]
        behind = min(rank.beat.number for rank in quiet)
        found = stopped or [rank for rank in quiet if rank.beat.number == behind]
        for rank in quiet:
            rank.send(heartbeat.DUMP)
        time.sleep(TOGETHER_SECONDS)
        for rank in found:
            state = "is stopped" if stopped else "hangs"
            say(f"error: {rank.name} {state}: no sign of life for {limit:g} s since it began: {rank.beat.what}")
        self._show_log(found[0])
        for rank in self.job.ranks:
            rank.send(signal.SIGTERM)

    def _report(self) -> None:
        """Says who failed, once."""
        if not self.failed or self.hung or self.reported:
            return
        self.reported = True
        first, *more = self.failed
        alike = [each for each in more if each.reason == first.reason]
        if self.job.ranks[0] in alike:
            first = self.job.ranks[0]
        say(f"error: {_listed([self.failed[0], *alike])} {first.reason}")
        if first is not self.job.ranks[0]:
            self._show_log(first)
        if any(rank.is_alive for rank in self.job.ranks):
            say("the other ranks are ended")

    def _show_log(self, launched: Launched) -> None:
        self._follow()
        say(f"the last lines of {launched.name}, {launched.log}:")
        for line in last_lines(launched.log):
            print(f"    {line}", file=sys.stderr, flush=True)

    def _follow(self, last: bool = False) -> None:
        if self.screen is not None:
            self.screen.update(last)

    def _wait_for_scheduler(self, inbox: queue.SimpleQueue) -> None:
        """Other machines need it until their ranks have left."""
        if self.scheduler is None or not self.job.several or self.failed or self.hung:
            return
        end = time.monotonic() + SCHEDULER_SECONDS if self.asked else float("inf")
        while self.scheduler.is_alive and time.monotonic() < end and self._listen(inbox):
            if self.asked:
                end = min(end, time.monotonic() + SCHEDULER_SECONDS)

    def _end(self) -> None:
        everybody = [*self.job.ranks, *([self.scheduler] if self.scheduler else [])]
        for each in everybody:
            if each.is_alive or not each.noted:
                each.kill()
        for each in everybody:
            if each.process is not None:
                each.process.wait()
        self._follow(last=True)
        for rank in self.job.ranks:
            self.job.heartbeat(rank).unlink(missing_ok=True)

    def _exit_code(self) -> int:
        if self.hung:
            return EXIT_HANGS
        if self.failed:
            return self.failed[0].code
        if self.asked and any(rank.code for rank in self.job.ranks):
            return signals.exit_code(self.asked)
        return 0


def say(message: str) -> None:
    """One line of the launcher itself."""
    print(f"launch: {message}", file=sys.stderr, flush=True)


def _listed(ranks: Sequence[Launched]) -> str:
    return " and ".join(each.name for each in ranks)


def _prepare(cores: set[int]) -> Callable[[], None]:
    """What a new process does before anything else.

    Signals to stop have their usual effect until it does something else with them, and SIGUSR1, which would kill it,
    waits.
    """
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in signals.ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
        os.sched_setaffinity(0, cores)

    return prepare


def _is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal (SIGSTOP), or waits for a disk that does not answer."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in "TtD"
