"""``python ...`` in a process that has imported already what takes ten seconds to import."""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

from custom.utils.compat import mend_torchvision

#: Not ``custom.bundle.overrides``, which looks at the arguments of its process.
IMPORTED = (
    *("monai.bundle", "monai.engines", "monai.handlers", "monai.networks.nets", "torch.utils.tensorboard"),
    *("matplotlib.pyplot", "sentence_transformers", "transformers", "scipy.ndimage", "nibabel"),
)


class WarmPython:
    """Answers calls of ``python`` one by one, each in a fork of a process that never computes anything itself."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, other = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(other,))
        self.process.start()
        other.close()

    def __call__(self, arguments: Sequence[str], folder: Path, output: Path) -> int:
        """Run ``python`` with these arguments in a folder and return its exit code; what it prints goes to a file."""
        self.connection.send((arguments, str(folder), str(output)))
        code: int = self.connection.recv()
        return code

    def close(self) -> None:
        self.connection.send(None)
        self.process.join()


def _serve(connection: Connection) -> None:
    mend_torchvision()
    for name in IMPORTED:
        import_module(name)
    while task := connection.recv():
        child = multiprocessing.get_context("fork").Process(target=_python, args=task)
        child.start()
        child.join(500)
        child.kill()  # if it has not ended yet
        child.join()
        connection.send(child.exitcode)


def _python(arguments: Sequence[str], folder: str, output: str) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.chdir(folder)
    kind, *rest = arguments
    if kind == "-m":
        sys.argv, sys.path[:0] = rest, [folder]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv, sys.path[:0] = ["-c"], [folder]
        exec(compile(rest[0], "<stdin>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[:0] = [kind, *rest], [str(Path(kind).resolve().parent)]
        runpy.run_path(kind, run_name="__main__")
