"""Starts a script as the ranks of one job, on one machine or several, and sees to it that they end together.

``python -m mindone.parallel.launch --nproc 2 SCRIPT ARGUMENTS...``. Ranks find each other and reduce through
MindSpore's own cluster engine; this module starts the processes with the environment that MindSpore documents for it
(``MS_ROLE``, ``MS_SCHED_HOST``, ``MS_WORKER_NUM``, ``MS_NODE_ID``...). ``msrun`` sets the same variables but cannot be
made to behave as a parent: at Ctrl+C it kills all ranks before anything is saved and ends with 0, and its processes go
on when it is terminated itself. Here `mindone.parallel.supervise` does that part.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mindone.errors import UserError, guarded
from mindone.folders import make_run_folder, time_stamp
from mindone.parallel.supervise import Job, Launched, Supervisor

DEFAULT_PORT = 8118
LOOPBACK = "127.0.0.1"
PYTHON = re.compile(r"python[\d.]*")


@dataclass(frozen=True)
class Host:
    """A machine, and how many ranks it has."""

    name: str
    slots: int


def launch(argv: Sequence[str], prog: str) -> None:
    """Starts a script as several processes, on the devices of this machine or of several.

    Raises:
        UserError: the job cannot be started like that.
        SystemExit: it has not ended well; 130 and 143 are those of Ctrl+C and SIGTERM, else the code of the rank that
            failed first.
    """
    given = launch_parser(prog).parse_args(argv)
    hosts = _hosts(given)
    command = python_command(given.command)
    if given.hostfile and given.node_rank is None:
        print(commands_of_hosts(argv, hosts, prog))
        return
    code = Supervisor(_job(given, hosts, command)).run()
    if code:
        raise SystemExit(code)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help lists the options, those of the script stand behind it")


def launch_parser(prog: str) -> argparse.ArgumentParser:
    """The options; what stands behind them is ``command``."""
    parser = _Parser(
        prog,
        usage=f"{prog} --nproc N [OPTIONS] [python] SCRIPT ARGUMENTS...",
        description=(launch.__doc__ or "").partition("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--nproc", "--local_worker_num", type=_positive, metavar="N", help="processes on this machine, one per device")
    add("--nodes", type=_positive, metavar="N", help="machines with as many processes each; 1 if not given")
    add("--worker_num", type=_positive, metavar="N", help="processes on all machines, instead of --nodes")
    add("--node_rank", type=int, metavar="R", help="which of the machines this one is: 0 to nodes - 1")
    add(
        "--hostfile",
        metavar="FILE",
        help="lines 'HOST slots=N' instead of --nproc, --nodes and --master_addr; without "
        "--node_rank the command of each machine is printed",
    )
    add("--master_addr", metavar="ADDRESS", help="of the first machine")
    add(
        "--master_port",
        type=_positive,
        metavar="PORT",
        help=f"on the first machine; a free one for one machine, {DEFAULT_PORT} for several",
    )
    add("--log_dir", metavar="FOLDER", help="for worker_RANK.log and scheduler.log; launch-logs/DATE if not given")
    add(
        "--hang_timeout",
        type=float,
        default=3600,
        metavar="SECONDS",
        help="a rank that has begun to report its steps and then none for so long hangs, and the job is ended; longer "
        "than the longest step, compilation and save; 0 waits for ever (default 3600)",
    )
    add(
        "--cluster_time_out",
        type=_positive,
        default=600,
        metavar="SECONDS",
        help="how long ranks wait for the others to come (default 600)",
    )
    add("--bind_core", type=_truth, default=False, metavar="True", help="give each process its share of the cores")
    add("--join", type=_truth, default=True, help=argparse.SUPPRESS)
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} has to be at least 1")
    return number


def _truth(text: str) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text} is neither True nor False")
    return words[text.lower()]


# --- who -------------------------------------------------------------------------------------------------------------


def read_hosts(path: str | Path) -> list[Host]:
    """The machines in a file of lines ``HOST slots=N`` or ``HOST:N``; ``#`` begins a comment, one slot if not said.

    Raises:
        UserError: the file cannot be read, is empty, or has another line or a machine twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"hostfile {path} cannot be read: {error}") from error
    hosts: list[Host] = []
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = re.fullmatch(r"([^\s:=]+)(?:\s+slots\s*=\s*([1-9]\d*)|:([1-9]\d*))?", text)
        if not found:
            raise UserError(f"hostfile {path}, line {number}: '{text}' is not of the form HOST slots=N")
        if found[1] in [host.name for host in hosts]:
            raise UserError(f"hostfile {path}, line {number}: {found[1]} is there twice; add up its slots")
        hosts.append(Host(found[1], int(found[2] or found[3] or 1)))
    if not hosts:
        raise UserError(f"hostfile {path} names no machine; write lines of the form HOST slots=N")
    return hosts


def _hosts(given: argparse.Namespace) -> list[Host]:
    """The machines in their order; only the first one's name matters."""
    if given.hostfile:
        for name in ("nproc", "nodes", "worker_num"):
            if getattr(given, name) is not None:
                raise UserError(f"--hostfile says how many processes each machine has; leave out --{name}")
        return read_hosts(given.hostfile)
    total = given.worker_num
    if given.nproc is None and total is None:
        raise UserError("give the number of processes: --nproc N, or --hostfile FILE")
    local = given.nproc or total
    nodes = given.nodes or (total // local if total else 1)
    if total is not None and total != nodes * local:
        raise UserError(f"--worker_num {total} is not {nodes} machines times {local} processes")
    return [Host(given.master_addr or LOOPBACK, local)] * nodes


def commands_of_hosts(argv: Sequence[str], hosts: Sequence[Host], prog: str) -> str:
    """What to run on each machine, ready for a terminal or for ssh."""
    program = ["python", sys.argv[0]] if sys.argv[0].endswith(".py") else prog.split()
    lines = [f"# one command for each of {len(hosts)} machines, from the same folder"]
    for number, host in enumerate(hosts):
        lines += [f"# {host.name}", shlex.join([*program, "--node_rank", str(number), *argv])]
    return "\n".join(lines)


# --- what ------------------------------------------------------------------------------------------------------------


def python_command(words: Sequence[str]) -> list[str]:
    """The command of a rank: ``SCRIPT.py ...`` and ``python SCRIPT.py ...`` run with this Python, others as they are.

    Raises:
        UserError: there is none, or no such file.
    """
    words = list(words[1:] if words[:1] == ["--"] else words)
    if not words:
        raise UserError("give the script to start behind the options: --nproc 2 SCRIPT ARGUMENTS...")
    if words[0].startswith("-"):
        raise UserError(
            f"unknown option {words[0]}; options of the script stand behind it, and --help lists the others"
        )
    interpreter = sys.executable
    if PYTHON.fullmatch(Path(words[0]).name):
        first, *words = words
        interpreter = first if os.sep in first else interpreter
        if not words:
            raise UserError("give the script to start behind python")
        if words[0].startswith("-"):
            return [interpreter, *words]
    elif not words[0].endswith(".py"):
        program = shutil.which(words[0])
        if program is None:
            raise UserError(f"{words[0]} is neither a script (.py) nor a command")
        return [program, *words[1:]]
    if not Path(words[0]).is_file():
        raise UserError(f"there is no script {words[0]} here ({Path.cwd()})")
    return [interpreter, *words]


def _job(given: argparse.Namespace, hosts: Sequence[Host], command: list[str]) -> Job:
    several = len(hosts) > 1
    if several and given.node_rank is None:
        raise UserError(f"give --node_rank 0 to {len(hosts) - 1}: which of the {len(hosts)} machines is this one?")
    node = given.node_rank if several and given.node_rank is not None else 0
    if not 0 <= node < len(hosts):
        raise UserError(f"--node_rank {node} is not one of {len(hosts)} machines; they count from 0")
    if several and not (given.master_addr or given.hostfile):
        raise UserError("several machines need --master_addr, the address of the first one, or --hostfile")
    address = given.master_addr or (hosts[0].name if several else LOOPBACK)
    first = sum(host.slots for host in hosts[:node])
    return Job(
        [Launched(first + local, local) for local in range(hosts[node].slots)],
        command=command,
        world_size=sum(host.slots for host in hosts),
        address=_address(address),
        port=_port(given.master_port or (DEFAULT_PORT if several else None), node == 0),
        has_scheduler=node == 0,
        several=several,
        log_dir=make_run_folder(given.log_dir or Path("launch-logs") / time_stamp(time.time())),
        hang_timeout=given.hang_timeout,
        cluster_timeout=given.cluster_time_out,
        bind_core=given.bind_core,
    )


def _address(name: str) -> str:
    """MindSpore takes numeric addresses only."""
    try:
        return socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)[0][4][0]
    except OSError as error:
        raise UserError(f"the address of {name} is not known here: {error.strerror}; check --master_addr") from error


def _port(wanted: int | None, is_first: bool) -> int:
    """The wanted port, which has to be free on the first machine, or any free one."""
    if wanted is not None and not is_first:
        return wanted
    with socket.socket() as test:
        test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            test.bind(("", wanted or 0))
        except (OSError, OverflowError) as error:
            raise UserError(f"port {wanted} cannot be used here: {error}; give another --master_port") from error
        return test.getsockname()[1]


if __name__ == "__main__":
    guarded(launch)(sys.argv[1:], "python -m mindone.parallel.launch")
