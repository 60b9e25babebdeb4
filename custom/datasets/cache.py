"""Prepared cases on disk: loaded, oriented, resampled and cropped once for all runs."""

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import ignite.distributed as idist
import torch
from monai.data import CacheDataset, Dataset, MetaTensor, PersistentDataset
from monai.transforms import Compose, RandomizableTrait, Transform
from monai.utils import CommonKeys, convert_to_tensor

from custom.datasets.cache_keys import item_key, transforms_key
from custom.utils.files import atomic_write

logger = logging.getLogger(__name__)

#: Types of the stored volumes. The error of an image in [0, 1] is at most 2^-12: 0.1 HU for CT's window of 425 HU.
STORED = {CommonKeys.IMAGE: torch.float16, CommonKeys.LABEL: torch.uint8}


class PreparedDataset(PersistentDataset):
    """MONAI's PersistentDataset with compact entries that are written atomically.

    An entry is ``<key of the item><key of the preparation>.pt`` (``custom.datasets.cache_keys``): a changed file or
    parameter has another entry, and training, validation and evaluation share theirs. It holds the image as float16,
    the label as uint8 (one byte per voxel for any number of classes), affines and file names, but not MONAI's record of
    operations. It is loaded by ``torch.load(weights_only=True)``; a damaged entry is written again, and a case is the
    same whether it was just prepared or loaded. Several processes may use one folder.

    The results of ``preparation``, which is deterministic, are stored; ``transform`` follows it, random or not.

    Raises:
        ValueError: a random transform in the preparation.
        TypeError: a parameter in it that cannot be part of a key.
    """

    def __init__(
        self, data: Sequence[Mapping[str, Any]], transform: Compose, *, preparation: Compose, cache_dir: str | Path
    ) -> None:
        for step in preparation.flatten().transforms:
            if isinstance(step, RandomizableTrait) or not isinstance(step, Transform):
                raise ValueError(
                    f"Transforms whose results are cached must be deterministic; {type(step).__name__} is random or no "
                    "MONAI transform: move it behind the preparation."
                )
        folder = Path(cache_dir).expanduser()
        super().__init__(data, preparation, folder, hash_func=item_key, hash_transform=transforms_key)
        self.following = transform

    def entry(self, item: Mapping[str, Any]) -> Path:
        """Path of the prepared item, whether it exists or not."""
        return Path(self.cache_dir, f"{item_key(item).decode()}{self.transform_hash}.pt")

    def prepared(self, index: int) -> dict[str, Any]:
        """The prepared item, from its entry, which is written if it is missing or damaged."""
        item = self.data[index]
        file = self.entry(item)
        try:
            with ZipFile(file) as archive:
                if damaged := archive.testzip():  # torch.load compares no checksums
                    raise BadZipFile(f"wrong checksum of {damaged}")
            return _expand(torch.load(file, weights_only=True))
        except FileNotFoundError:
            pass
        except (BadZipFile, UnpicklingError, RuntimeError, KeyError) as error:
            logger.warning("%s is damaged and is prepared again (%s).", file, str(error).partition("\n")[0])
        kept = _compact(self._pre_transform(deepcopy(item)))
        with atomic_write(file) as temporary:
            torch.save(kept, temporary)
        return _expand(kept)

    def _transform(self, index: int) -> Any:
        return self.following(self.prepared(index))


def create_dataset(
    data: Sequence[Mapping[str, Any]],
    transform: Compose,
    *,
    preparation: Compose,
    cache_dir: str | Path | None,
    cache_rate: float = 0.0,
    num_workers: int = 0,
    progress: bool = True,
) -> Dataset:
    """A dataset that applies ``preparation``, then ``transform``.

    With a ``cache_dir`` prepared cases are stored on disk (``PreparedDataset``), else a fraction ``cache_rate`` of them
    in memory (``CacheDataset``), prepared by ``num_workers`` threads at the start; ``progress`` shows a bar.
    """
    if cache_dir is not None:
        return PreparedDataset(data, transform, preparation=preparation, cache_dir=cache_dir)
    if cache_rate > 0 and idist.get_world_size() > 1:
        logger.warning(
            "Each of %d processes keeps all cases in memory. Prepare them once, by scripts/prepare_data.py, and pass "
            "--cache_dir; or pass --train::dataset::cache_rate 0.", idist.get_world_size()
        )  # fmt: skip
    both = Compose([*preparation.transforms, *transform.transforms])
    if cache_rate > 0:
        return CacheDataset(data, both, cache_rate=cache_rate, num_workers=num_workers, progress=progress)
    return Dataset(data, both)


def _compact(item: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(item)
    for key, dtype in STORED.items():
        volume: MetaTensor = item[key]
        source = str(volume.meta["filename_or_obj"])
        values = volume.as_tensor().to(dtype).clone(memory_format=torch.contiguous_format)  # only the crop
        if not torch.isfinite(values).all():
            raise ValueError(f"{source}: prepared images must be below 65504.")
        kept[key] = {"values": values, "affine": volume.affine, "source": source}
    kept = {key: value for key, value in kept.items() if not isinstance(value, MetaTensor)}
    return dict(convert_to_tensor(kept, convert_numeric=False, track_meta=False))


def _expand(kept: Mapping[str, Any]) -> dict[str, Any]:
    item = dict(kept)
    for key in STORED:
        part = item[key]
        values = part["values"].float() if key == CommonKeys.IMAGE else part["values"]
        item[key] = MetaTensor(values, affine=part["affine"], meta={"filename_or_obj": part["source"]})
    return item
