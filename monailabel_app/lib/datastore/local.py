"""A folder of NIfTI images with their labels, written atomically."""

import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
from filelock import FileLock
from monailabel.config import settings
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException
from monailabel.utils.others.generic import remove_file

from custom.anatomy.class_set import ClassSet
from custom.imageio.checks import check_image
from custom.imageio.nifti import write_label
from custom.imageio.readers import read_voxels
from custom.utils.files import temporary_prefix
from custom.utils.memory import NotEnoughMemory
from lib.datastore.labels import NamedLabel, Values, add_to_label, check_names, embedded_info, read_label
from lib.errors import without_folders
from lib.schemas import UNSAFE_ID

logger = logging.getLogger(__name__)

EXTENSIONS = (".nii.gz", ".nii")


FINAL = str(DefaultLabelTag.FINAL.value)

#: Names of the datastore's own files and folders, which no image may have.
RESERVED = ("labels", "datastore_v2", "replaced")

#: Entry of an image's info: whether its voxels could be read, see ``problem_of``.
_READABLE = "readable"

#: Earlier labels of an image that are kept when a new one replaces them.
REPLACED_LABELS = 10

Info: TypeAlias = dict[str, Any]


class AtomicDatastore(LocalDatastore):
    """MONAI Label's file datastore with atomic writes: a crash loses and corrupts nothing.

    Files are written in a hidden folder and renamed when complete. A change holds one lock against all threads and
    processes and first reads the changes of others; objects that others may be iterating over are replaced, never
    changed in place. The names of a label's values are kept in ``datastore_v2.json`` and in the label file, so that the
    former can be rebuilt from the files.
    """

    _datastore: LocalDatastoreModel

    def __init__(self, *args: Any, class_set: ClassSet, **keywords: Any) -> None:
        self.class_set = class_set
        super().__init__(*args, **keywords)
        if self._auto_reload:
            self._handler.on_moved = self._on_any_event  # files that other programs write elsewhere and rename
            self._observer.unschedule_all()  # it watches incomplete files, and each slice of a series
            for path in (self._datastore.image_path(), *map(self._datastore.label_path, (FINAL, "original"))):
                self._observer.schedule(self._handler, path, recursive=False)

    @cached_property
    def _lock(self) -> FileLock:
        return FileLock(self._lock_file)  # reentrant

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """Yield an empty folder on the file system of the data, which is removed at the end."""
        parent = Path(self._datastore_path) / ".unfinished"
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=temporary_prefix(parent)) as folder:
            yield Path(folder)

    def status(self) -> dict[str, Any]:
        """Numbers of images and labels, and the images that cannot be read, with the reason."""
        aside: dict[str, str] = {}
        for image_id, item in self._datastore.objects.items():
            known = item.image.info.get(_READABLE)
            if isinstance(known, dict) and known.get("problem"):
                path = Path(self._datastore.image_path()) / f"{image_id}{item.image.ext}"
                if path.exists() and _size_and_time(path) == known.get("version"):
                    aside[image_id] = known["problem"]
        return dict(super().status()) | ({"set_aside": aside} if aside else {})

    def add_image(self, image_id: str, image_filename: str, image_info: Info) -> str:
        """Copy an image into the folder.

        Raises:
            ValueError: no NIfTI volume; an invalid id; an image with labels has this id already.
        """
        name = Path(image_filename).name
        extension = _extension(name.lower())
        image_id = image_id or name[: len(name) - len(extension)]
        if image_id.casefold() in RESERVED:
            raise ValueError(f"{image_id!r} is a name of the datastore's own files: choose another id.")
        if not extension or not re.fullmatch(r"\w[\w.\- ]{0,127}", image_id):
            raise ValueError(
                "An image must be a .nii.gz or .nii file, its id at most 128 letters, digits, blanks, dots, - and _; "
                f"not {name!r:.100} as {image_id!r:.150}."
            )
        check_image(image_filename)
        with self._staging() as folder, self._lock:
            copy = Path(shutil.copyfile(image_filename, folder / f"{image_id}{extension}"))
            self._init_from_datastore_file()
            old = self._datastore.objects.get(image_id)
            if old and old.labels:
                raise ValueError(f"There is an image {image_id!r} with labels: choose another id, or remove it first.")
            copy.replace(Path(self._datastore.image_path()) / copy.name)
            if old and old.image.ext != extension:
                (Path(self._datastore.image_path()) / f"{image_id}{old.image.ext}").unlink(missing_ok=True)
            self._put(image_id, file_record(copy.name, image_info), {})
        return image_id

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: Info) -> str:
        """Save a label map (NIfTI, NRRD) as uint8 ``.nii.gz`` on the grid of its image. Returns the image's id.

        ``label_info`` may name the values in an entry ``label_info`` (see ``check_names``). A final label is added to
        an earlier one (see ``add_to_label``), unless an entry ``replace`` is true; the earlier one is kept in the
        folder ``replaced`` beside the labels, the last `REPLACED_LABELS` of an image.

        Raises:
            ValueError: see ``read_label`` and ``check_names``; nothing was saved.
            ImageNotFoundException: no such image.
        """
        values, image, info = self._check_label(image_id, label_filename, label_tag, label_info)
        with self._lock:
            if label_tag == FINAL:
                values, info = self._complete(image_id, values, image, info)
            self._keep_label(image_id, label_tag, values, image, info)
        return image_id

    def _check_label(self, image_id: str, file: str, tag: str, info: Info) -> tuple[Values, nib.Nifti1Image, Info]:
        """The values (H, W, D) of a label map on the grid of its image, the image, and the checked info."""
        if not re.fullmatch(r"\w[\w-]{0,63}", tag):
            raise ValueError(f"A label's tag must be a plain word, such as final, not {tag!r:.100}.")
        uri = self.get_image_uri(image_id)
        if not uri:
            raise ImageNotFoundException(f"Image {image_id} not found")
        image = check_image(uri)
        values, own = read_label(file, like=image)
        others = {key: entry for key, entry in info.items() if key != "label_info"}
        names = check_names(info.get("label_info"), values, own)
        return values, image, others | ({"label_info": names} if names else {})

    def _keep_label(self, image_id: str, tag: str, values: Values, image: nib.Nifti1Image, info: Info) -> None:
        name = f"{image_id}.nii.gz"
        path = Path(self._datastore.label_path(tag)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._staging() as folder, self._lock:
            self._init_from_datastore_file()
            item = self._datastore.objects.get(image_id)
            if item is None:
                raise ImageNotFoundException(f"Image {image_id} not found")
            info = {key: entry for key, entry in info.items() if key != "replace"} | {"saved": _now()}
            write_label(values, folder / name, like=image, comment=json.dumps(info, default=str))
            if tag == FINAL and path.exists():
                self._set_aside(path, image_id)
            others = {other: label for other, label in item.labels.items() if other != tag}
            self._put(image_id, item.image, others)  # a crash after this leaves no new voxels with old names
            (folder / name).replace(path)
            self._put(image_id, item.image, others | {tag: file_record(name, info)})

    def _complete(self, image_id: str, values: Values, image: nib.Nifti1Image, info: Info) -> tuple[Values, Info]:
        """A new final label with the structures of the earlier one that it does not name."""
        path = LocalDatastore.get_label_uri(self, image_id, FINAL)
        entries = self.get_label_info(image_id, FINAL).get("label_info") if path else None
        if not entries or info.get("replace"):
            return values, info
        if not info.get("label_info"):
            names = ", ".join(entry["name"] for entry in entries)
            raise ValueError(
                f"The label saved here names its values ({names}), and this one does not: send label_info, "
                '[{"name": ..., "idx": value}], or "replace": true.'
            )
        old = NamedLabel(read_label(path, like=image)[0], entries)
        added = add_to_label(old, NamedLabel(values, info["label_info"]), class_set=self.class_set)
        return added.values, info | {"label_info": added.entries}

    def _set_aside(self, path: Path, image_id: str) -> None:
        """Keep a copy of a label that is about to be replaced; the oldest copies are removed."""
        folder = path.parents[1] / "replaced" / image_id
        folder.mkdir(parents=True, exist_ok=True)
        copies = sorted(folder.glob("*.nii.gz"))
        for old in copies[: max(0, len(copies) + 1 - REPLACED_LABELS)]:
            old.unlink()
        os.link(path, folder / f"{datetime.now():%Y%m%d-%H%M%S-%f}.nii.gz")

    def _put(self, image_id: str, image: DataModel, labels: Mapping[str, DataModel]) -> None:
        item = ImageLabelModel(image=image, labels=labels)
        self._datastore.objects = {**self._datastore.objects, image_id: item}
        self._update_datastore_file()

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels; raises ImageNotFoundException if there is none."""
        with self._lock:
            if not self.get_image_uri(image_id):
                raise ImageNotFoundException(f"Image {image_id} not found")
            super().remove_image(image_id)
            self.refresh()

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; raises LabelNotFoundException if there is none."""
        with self._lock:
            path = LocalDatastore.get_label_uri(self, label_id, label_tag)
            if not path:
                raise LabelNotFoundException(f"There is no label {label_tag!r} of the image {label_id!r}.")
            remove_file(path)
            self.refresh()

    def update_image_info(self, image_id: str, info: Info) -> None:
        with self._lock:
            self._init_from_datastore_file()
            super().update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: Info) -> None:
        with self._lock:
            self._init_from_datastore_file()
            super().update_label_info(label_id, label_tag, info)

    def _update_datastore_file(self) -> None:
        content = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
        with self._lock, self._staging() as folder:
            path = folder / "datastore.json"
            path.write_text(content, encoding="utf-8")
            path.replace(self._datastore_config_path)
            self._config_ts = _version(Path(self._datastore_config_path))

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the changes of others; a damaged file is moved aside and rebuilt from images and labels."""
        path = Path(self._datastore_config_path)
        with self._lock:
            if not path.exists() or _version(path) == self._config_ts:
                return
            try:
                content = LocalDatastoreModel.model_validate_json(path.read_bytes())
            except ValueError:
                aside = path.rename(f"{path}.damaged-{datetime.now():%Y%m%d-%H%M%S-%f}")
                logger.warning("%s was damaged: rebuilt from images and labels; moved to %s.", path.name, aside.name)
                return
            content.base_path = self._datastore_path
            content.objects = {key: item for key, item in content.objects.items() if item.image.ext in EXTENSIONS}
            self._datastore = content
            self._config_ts = _version(path)

    def _reconcile_datastore(self) -> None:
        with self._lock:
            self._init_from_datastore_file()
            found = self._scan()
            if found != self._datastore.objects or not Path(self._datastore_config_path).exists():
                self._datastore.objects = found
                self._update_datastore_file()

    def _scan(self) -> dict[str, ImageLabelModel]:
        """The images and labels in the folder, with their known info."""
        labels_dir = Path(self._datastore.label_path(None))
        tags = {folder.name: _list(folder) for folder in sorted(labels_dir.iterdir()) if folder.is_dir()}
        found = {}
        for image_id, extensions in _list(Path(self._datastore.image_path())).items():
            old = self._datastore.objects.get(image_id, ImageLabelModel(image=DataModel()))
            image = old.image if old.image.ext in extensions else file_record(image_id + extensions[0], {})
            labels = {}
            for tag, files in tags.items():
                if image_id in files:
                    labels[tag] = old.labels.get(tag, DataModel())
                    if labels[tag].ext not in files[image_id]:
                        name = image_id + files[image_id][0]
                        labels[tag] = file_record(name, embedded_info(labels_dir / tag / name))
            found[image_id] = ImageLabelModel(image=image, labels=labels)
        return found


class NiftiDatastore(AtomicDatastore):
    """A folder of ``.nii.gz`` and ``.nii`` images, their labels in ``labels/<tag>/``.

    Raises:
        ValueError: a folder that cannot be written.
    """

    def __init__(self, folder: str | Path, *, class_set: ClassSet) -> None:
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ValueError(
                f"The folder of studies must be writable, since labels are kept in it, not {folder}: {error.strerror}."
            ) from error
        super().__init__(
            str(folder),
            class_set=class_set,
            extensions=[f"*{end}" for end in EXTENSIONS],
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )
        if not self.list_images():  # MONAI Label makes a folder of every name that is mistyped
            logger.warning("The folder of studies, %s, holds no %s image yet.", folder, " or ".join(EXTENSIONS))


def _version(path: Path) -> tuple[int, int]:
    """Differs between two versions of a file."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ino


def _extension(name: str) -> str:
    return next((extension for extension in EXTENSIONS if name.endswith(extension)), "")


def _list(folder: Path) -> dict[str, list[str]]:
    """The ids in a folder, with the extensions of each."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        extension = _extension(path.name)
        if extension and not path.name.startswith(".") and path.is_file():
            if UNSAFE_ID.search(path.name):
                logger.warning("Left out, for no request can name it: %r has control characters or \\.", path.name)
                continue
            found.setdefault(path.name.removesuffix(extension), []).append(extension)
    return {image_id: sorted(extensions, key=EXTENSIONS.index) for image_id, extensions in found.items()}


def file_record(name: str, info: Mapping[str, Any]) -> DataModel:
    """The datastore's entry of one file."""
    return DataModel(ext=_extension(name), info={**info, "ts": int(time.time()), "name": name})


def problem_of(datastore: Datastore, image_id: str) -> str:
    """Why an image cannot be read, "" if it can.

    Its voxels are read once, and again when the file changes: the image's info keeps the outcome.
    """
    try:
        path = Path(datastore.get_image_uri(image_id))
    except ValueError as error:  # a series of a PACS that is no volume, such as a localizer
        return str(error)
    version = _size_and_time(path)
    known = datastore.get_image_info(image_id).get(_READABLE)
    if isinstance(known, dict) and known.get("version") == version:
        return str(known.get("problem", ""))
    problem = ""
    try:
        read_voxels(check_image(path))
    except (ValueError, NotEnoughMemory) as error:
        problem = without_folders(str(error))
    datastore.update_image_info(image_id, {_READABLE: {"version": version, "problem": problem}})
    return problem


def _size_and_time(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
