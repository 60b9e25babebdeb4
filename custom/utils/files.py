"""Files that are written whole or not at all."""

import errno
import functools
import hashlib
import io
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load, save_file


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (same suffixes); on success it becomes ``path``, else it is removed.

    The folder is made where it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=temporary_prefix(path.parent), suffix="".join(path.suffixes)
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except Exception as error:
        if shutil.disk_usage(path.parent).free < 2**20:  # of which torch and safetensors say little
            reason = f"{path} could not be written: {os.strerror(errno.ENOSPC)}. Nothing partial was left; free space"
            raise OSError(errno.ENOSPC, reason) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def save_safetensors(tensors: Mapping[str, torch.Tensor], path: str | Path, *, metadata: Mapping[str, str]) -> None:
    """Write tensors and a string header to one safetensors file, whole; the same content gives the same bytes."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(contiguous, str(temporary), metadata=dict(metadata))
        _sort_metadata(temporary)


def read_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read the tensors and the string header of a safetensors file that others may replace at any time.

    The library's ``safe_open`` opens a path twice, for header and tensors, which then may be two files'.

    Raises:
        safetensors.SafetensorError: no such file format, or one that is cut short.
    """
    content = Path(path).read_bytes()
    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__", {})


def save_state(state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Write tensors without a header, as MONAI's own tools load them, whole; the same tensors give the same bytes."""
    stream = io.BytesIO()  # into a stream, for torch writes the name of a file into it
    torch.save(dict(state), stream)
    with atomic_write(path) as temporary:
        temporary.write_bytes(stream.getvalue())


def _sort_metadata(path: Path) -> None:
    """Put a safetensors file's metadata into the order of their names; the library writes them in any order."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        if len(text) == length:
            file.seek(8)
            file.write(text)


def temporary_prefix(folder: str | Path) -> str:
    """Begin of the name of whatever this process has half written in ``folder``.

    Half-written files and folders that a killed process of this machine left there are removed.
    """
    machine = re.sub(r"[^\w.]", "_", socket.gethostname() + _process_namespace())
    for leftover in Path(folder).glob(".writing-*"):
        parts = leftover.name.split("-")
        if len(parts) > 3 and parts[1].isdecimal() and parts[2] == machine and not _is_alive(int(parts[1])):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
    return f".writing-{os.getpid()}-{machine}-"


def _process_namespace() -> str:
    """What tells containers of one host name apart, whose processes do not see each other."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def check_writable(folder: str | Path) -> None:
    """Refuse a folder where no file can be made; it need not exist yet, and is not made.

    Raises:
        ValueError: it begins with ``~``, which would become a folder of that name.
        OSError: the message names the folder and the reason.
    """
    if str(folder).startswith("~"):
        raise ValueError(
            f"A folder to write to must not begin with ~, not {folder}: a shell replaces ~ at the begin of a word only "
            "(--output_dir ~/out, not --output_dir=~/out). Write its path in full."
        )
    existing = folder = Path(folder).absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"0")
    except OSError as error:
        raise type(error)(
            error.errno, f"The folder {folder} cannot be written: {error.strerror} ({existing})."
        ) from error


def check_folders(folders: Sequence[str | Path]) -> None:
    """Refuse, before any work, folders that a run could not write to (see ``check_writable``)."""
    for folder in folders:
        check_writable(folder)


def content_digest(path: str | Path) -> str:
    """SHA-256 of a file, or of a folder's files, one after another with their names."""
    path = Path(path)
    if path.is_file():
        return _file_digest(path, path.stat().st_mtime_ns, path.stat().st_size)
    whole = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.is_file()):
        whole.update(os.fsencode(file.name) + b"\0" + content_digest(file).encode() + b"\0")
    return whole.hexdigest()


@functools.lru_cache(maxsize=4096)
def _file_digest(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        for part in iter(lambda: file.read(1 << 22), b""):
            digest.update(part)
    return digest.hexdigest()
