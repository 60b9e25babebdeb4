"""Files and folders that appear complete or not at all, and digests of them."""

import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import torch
from safetensors.torch import load, save_file


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (same suffixes); on success it replaces ``path``, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{temporary_prefix(path.parent)}{uuid4().hex}{''.join(path.suffixes)}"
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors creates files that only their owner can read
        temporary.replace(path)
    except Exception as error:
        if shutil.disk_usage(path.parent).free < 2**20:  # torch and safetensors do not say so
            reason = f"{path} could not be written: {os.strerror(errno.ENOSPC)}. Nothing partial was left; free space"
            raise OSError(errno.ENOSPC, reason) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def save_safetensors(tensors: Mapping[str, torch.Tensor], path: str | Path, *, metadata: Mapping[str, str]) -> None:
    """Write tensors and a string header to one safetensors file, atomically; equal content gives equal bytes."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(contiguous, str(temporary), metadata=dict(metadata))
        with temporary.open("r+b") as file:  # in which the library wrote the metadata in any order
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
            if len(text) == length:
                file.seek(8)
                file.write(text)


def read_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read the tensors, in their order, and the string header of a safetensors file that may be replaced meanwhile.

    The library's ``safe_open`` opens the path twice, so that header and tensors may be those of two files.

    Raises:
        safetensors.SafetensorError: another format, or a truncated file.
    """
    content = Path(path).read_bytes()
    tensors = load(content)  # in any order
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.pop("__metadata__", {})
    return {name: tensors[name] for name in header}, metadata


def save_state(state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Write a state dict as MONAI's own tools load it, atomically; equal tensors give equal bytes."""
    stream = io.BytesIO()  # into a file, torch would write the file's name too
    torch.save(dict(state), stream)
    with atomic_write(path) as temporary:
        temporary.write_bytes(stream.getvalue())


def temporary_prefix(folder: str | Path) -> str:
    """Prefix of this process's temporaries in ``folder``; those of killed processes of this machine are removed."""
    namespace = ""  # tells apart containers with one host name, whose processes do not see each other
    with suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    machine = re.sub(r"[^\w.]", "_", socket.gethostname() + namespace)
    for leftover in Path(folder).glob(".writing-*"):
        parts = leftover.name.split("-")
        if len(parts) > 3 and parts[1].isdecimal() and parts[2] == machine and not _is_alive(int(parts[1])):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
    return f".writing-{os.getpid()}-{machine}-"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


@contextmanager
def atomic_folder(final: Path, *, check: Callable[[Path], None] = lambda folder: None) -> Iterator[Path]:
    """Yield a path for a new folder, which on success replaces ``final`` and else is removed; see ``atomic_write``.

    ``check`` may refuse what is to be replaced by an error; no other process replaces it between check and replacement.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=temporary_prefix(final.parent)) as temporary:
        new = Path(temporary) / final.name
        yield new
        with _locked(final.parent):
            check(final)
            replace_folder(final, new)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which leaves no file; file systems without locks have none."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def replace_folder(final: Path, new: Path) -> None:
    """Move ``new``, alone in a temporary folder on the same file system, to ``final``.

    A folder that is there stays unless that succeeds, else it is moved to the temporary folder.
    """
    old = new.parent / ".replaced"
    if final.exists():
        final.rename(old)
    try:
        new.rename(final)
    except BaseException:
        if old.exists() and not final.exists():
            old.rename(final)
        raise


def check_folders(folders: Sequence[str | Path]) -> None:
    """Refuse a folder where no file can be created; it need not exist yet, and is not created.

    Raises:
        ValueError: it begins with ``~``, which would become a folder of that name.
        OSError: the message names the folder and the reason.
    """
    for folder in folders:
        if str(folder).startswith("~"):
            raise ValueError(
                f"A folder to write to must not begin with ~, not {folder}: a shell expands ~ only where a word begins "
                "(--output_dir ~/out, not --output_dir=~/out). Write its path in full."
            )
        path = Path(folder).absolute()
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=existing) as file:
                file.write(b"0")
        except OSError as error:
            reason = f"The folder {path} cannot be written: {error.strerror} ({existing})."
            raise type(error)(error.errno, reason) from error


def content_digest(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    path = Path(path)
    if path.is_file():
        return _file_digest(path, path.stat().st_mtime_ns, path.stat().st_size)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.is_file()):
        digest.update(os.fsencode(file.name) + b"\0" + content_digest(file).encode() + b"\0")
    return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _file_digest(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
