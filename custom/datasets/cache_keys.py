"""Keys of prepared cases: equal in all processes, different for every file and parameter that changes the case.

MONAI hashes pickles, which contain addresses and thread state and differ between processes.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any

import monai
import numpy as np
import torch
from monai.data import ImageReader
from monai.transforms import Transform
from monai.utils import CommonKeys

import custom
from custom.anatomy.class_set import ClassSet

#: Fields of a class set that affect the preparation (its words do not), and attributes that change with their use.
_CLASS_SET = ("modality", "intensity_window", "percentiles", "plausible_intensity")
_STATE = ("_tracing", "filenames")


#: Packages of ``custom`` whose code prepares cases.
_PREPARING = ("anatomy", "datasets", "imageio", "transforms", "utils")


def transforms_key(transforms: Any) -> bytes:
    """Hash of the classes and parameters of transforms (``canonical``), and of the program that computes them.

    The program is MONAI by its version and ``custom`` by the source of the packages that prepare cases: a change of the
    code makes the cases anew.
    """
    return _digest([canonical(transforms), monai.__version__, program_digest(Path(custom.__file__).parent)])


@functools.cache
def program_digest(folder: Path) -> str:
    """Hash of the modules and tables in the packages of ``custom``, in a folder, whose code prepares cases."""
    digest = hashlib.sha256()
    for package in _PREPARING:
        for file in sorted((folder / package).rglob("*")):
            if file.suffix in (".py", ".json"):
                digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def item_key(item: Mapping[str, Any]) -> bytes:
    """Hash of an item, and of the sizes and modification times of its files, which must exist."""
    found = [Path(item[key]).stat() for key in (CommonKeys.IMAGE, CommonKeys.LABEL)]
    return _digest([canonical(item), [(status.st_size, status.st_mtime_ns) for status in found]])


def canonical(value: Any) -> Any:
    """A value as JSON of a canonical form: 6 is 6.0, a tuple is a list, an array is its hash.

    Raises:
        TypeError: a value that has no canonical form, such as a lambda.
    """
    if isinstance(value, Enum):
        return canonical(value.value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float | np.number | np.bool_):
        return float(value)
    if isinstance(value, Path | np.dtype | torch.dtype | torch.device):
        return str(value)
    if isinstance(value, list | tuple):
        return [canonical(part) for part in value]
    if isinstance(value, Mapping):
        return sorted(([canonical(key), canonical(part)] for key, part in value.items()), key=json.dumps)
    if isinstance(value, set | frozenset):
        return sorted((canonical(part) for part in value), key=json.dumps)
    if isinstance(value, np.ndarray | torch.Tensor):
        array = np.ascontiguousarray(value)
        return [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, type) or (isinstance(value, FunctionType) and "<" not in value.__qualname__):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, ClassSet):
        return {name: canonical(getattr(value, name)) for name in _CLASS_SET}
    if isinstance(value, Transform | ImageReader) or dataclasses.is_dataclass(value):
        parts = {name: part for name, part in vars(value).items() if name not in _STATE}
        return [canonical(type(value)), canonical(parts)]
    raise TypeError(
        "Parameters of a transform whose results are cached must be numbers, strings, arrays, named functions or other "
        f"transforms, not {value!r:.120}: name the function, or put the transform behind the cached ones."
    )


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32].encode()
