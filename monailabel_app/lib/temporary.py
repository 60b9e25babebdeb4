"""Temporary files that somebody else removes once they were used."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_file(suffix: str) -> Iterator[Path]:
    """Yield the path of a new temporary file, which is kept unless the block raises."""
    with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
        path = Path(file.name)
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise
