"""``python ...`` in a fork of a process that has already imported what takes ten seconds to import.

A fork runs its module, script or code as a new interpreter would: in its folder, with its arguments and environment,
to the interpreter's own end, with the folders of its ``PYTHONPATH``. Only what is read from the environment while the
interpreter starts or imports libraries stays that of the first process: a command that needs other values gets a
process of its own.
"""

import atexit
import gc
import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, Self

from custom.utils.compat import mend_torchvision
from tests.helpers import ROOT
from tests.helpers.pacs import free_port

#: Nothing of ``custom``: ``custom.bundle.overrides`` reads the arguments of its process when it is imported.
IMPORTED = (
    *("monai.bundle", "monai.engines", "monai.handlers", "monai.networks.nets", "torch.utils.tensorboard"),
    *("matplotlib.pyplot", "sentence_transformers", "transformers", "scipy.ndimage", "nibabel"),
)

ALWAYS = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


class Task(NamedTuple):
    """What a fork is to run."""

    arguments: tuple[str, ...]
    folder: str
    environment: Mapping[str, str]


class Process:
    """A ``python`` with these arguments, in a session of its own; used as a ``subprocess.Popen``.

    What it writes to standard output and error is appended to ``log``, or kept for ``communicate``.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path = ROOT,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.task = Task(tuple(map(str, arguments)), str(cwd), os.environ | ALWAYS | dict(environment or {}))
        self.returncode: int | None = None
        streams = (log.open("a", encoding="utf-8") if log else tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
        self.files = list(streams)
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_server(), [b"1"], [theirs.fileno(), *(file.fileno() for file in self.files)])
        if log:
            for file in self.files:  # which the process has too
                file.close()
        self.connection = Connection(ours.detach())
        self.connection.send(self.task)
        self.pid: int = self.connection.recv()

    def poll(self, timeout: float = 0) -> int | None:
        if self.returncode is None and self.connection.poll(timeout):
            self.returncode = self.connection.recv()
        return self.returncode

    def wait(self, timeout: float) -> None:
        """Wait for the end."""
        if self.poll(timeout) is None:
            raise subprocess.TimeoutExpired(self.task.arguments, timeout)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the end, and return what was written to standard output and error."""
        self.wait(timeout)
        for file in self.files:
            file.seek(0)
        out, err = (file.read() for file in self.files)
        return out, err

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what still runs."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.poll(60)
        self.connection.close()
        for file in self.files:
            file.close()


def run_python(
    *arguments: object, cwd: Path = ROOT, environment: Mapping[str, str] | None = None, timeout: float = 500
) -> subprocess.CompletedProcess[str]:
    """Run ``python`` with these arguments to its end."""
    with Process(*arguments, cwd=cwd, environment=environment) as process:
        out, err = process.communicate(timeout)
        assert process.returncode is not None
        return subprocess.CompletedProcess(process.task.arguments, process.returncode, out, err)


def start_two(*arguments: object) -> tuple[Process, Process]:
    """Start two processes that are one run, with the variables that torchrun would set."""
    run = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    first, second = (Process(*arguments, environment=run | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1"))
    return first, second


@cache
def _server() -> socket.socket:
    """Start the first process; it ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "tests.helpers.warm_python", str(theirs.fileno())]
        server = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | ALWAYS, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
    atexit.register(server.wait)
    atexit.register(ours.close)
    return ours


def _next_task(channel: socket.socket) -> Task:
    """Receive tasks until the other side ends; returns in a fork per task only."""
    while True:
        _, handles, *_ = socket.recv_fds(channel, 1, 3)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not handles:
            sys.exit()
        if not os.fork():
            break
        for handle in handles:
            os.close(handle)
    channel.close()
    with Connection(handles[0]) as connection:
        task: Task = connection.recv()
        if child := os.fork():
            connection.send(child)
            connection.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            os._exit(0)
    os.setsid()
    for stream, handle in enumerate(handles[1:], start=1):
        os.dup2(handle, stream)
        os.close(handle)
    return task


def _run(task: Task) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
    os.chdir(task.folder)
    folders = [environment["PYTHONPATH"].split(os.pathsep) for environment in (os.environ, task.environment)]
    sys.path[1:] = folders[1] + [folder for folder in sys.path[1:] if folder not in folders[0]]
    for name in [name for name in sys.modules if name.partition(".")[0] == "custom"]:
        del sys.modules[name]  # it may be another in these folders
    os.environ.clear()
    os.environ.update(task.environment)
    tempfile.tempdir = None  # read TMPDIR again
    first, *rest = task.arguments
    sys.path[0] = task.folder
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    mend_torchvision()
    for name in IMPORTED:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    gc.freeze()  # no fork looks through the libraries' objects, which would copy their pages
    _run(_next_task(socket.socket(fileno=int(sys.argv[1]))))
