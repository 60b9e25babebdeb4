"""The result folder of an image: masks, merged map, summary, picture."""

import json
import logging
import shutil
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.config import KeysCollection
from monai.transforms import MapTransform

import custom
from custom.anatomy.class_set import AnatomicalClass, ClassSet
from custom.imageio.checks import intensity_window, open_image
from custom.imageio.nifti import write_label
from custom.imageio.readers import DETACHED_SUFFIXES, read_voxels
from custom.inferers.result import Segmentation
from custom.outputs.formats import NIFTI, NOTHING_FOUND, check_formats, read_formats, write_dicom
from custom.outputs.structures import StructureMasks, measure
from custom.utils.files import atomic_folder, check_folders, content_digest
from custom.visualize.preview import write_preview
from custom.weights.header import read_header, trained_on

logger = logging.getLogger(__name__)

SCHEMA_VERSION = "2.1"  # of summary.json, see summary.schema.json

#: What the picture says of the text that went to the network.
READ_AS = {"canonical": "", "raw": " (raw text to the network)", "unread": " (chosen from all that the network finds)"}


class OutputError(RuntimeError):
    """A result could not be written: the fault lies with the output folder, not with the image."""


def check_outputs(requests: Sequence[Any], output_dir: str | Path, *, formats: Any = NIFTI) -> None:
    """Refuse, before any work, an output folder that cannot be written, or result folders that must not be replaced.

    Raises:
        OutputError: ``output_dir`` cannot be written.
        ValueError: a result folder holds anything but an earlier result of ours for the same image: a result
            replaces the folder, and must not delete what others put there. ``formats`` that ``check_formats`` refuses.
    """
    check_formats(formats, list(dict.fromkeys(request.image for request in requests)))
    try:
        check_folders([output_dir])
    except OSError as error:
        raise OutputError(f"{error} Choose another --output_dir.") from error
    for request in requests:
        _check_folder(Path(output_dir) / request.output_name, request.image)


def _check_folder(folder: Path, image: str | Path) -> None:
    if not folder.exists():
        return
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        ours = {"summary.json", "preview.png", summary["labels"], *(row["mask"] for row in summary["classes"])}
        ours |= set(summary.get("files", []))  # since 1.3
        unknown = {path.name for path in folder.iterdir()} - ours
        is_result = str(summary["software"]).startswith("deep-film") and not unknown
        earlier = Path(summary["image"]) if is_result else None
    except (OSError, ValueError, KeyError, TypeError):
        earlier = None
    if earlier is None:
        raise ValueError(
            f"{folder} exists and is not an earlier result (summary.json and the files it lists, nothing else): "
            "choose another --output_dir, or move it away."
        )
    if earlier.resolve() != Path(image).resolve():
        raise ValueError(
            f"{folder} holds the result of {earlier}, which that of {image} must not replace: choose another "
            "--output_dir, or move it away."
        )


def differences(folder: Path, request: Any) -> list[str] | None:
    """In what an earlier result is not that of a request; None where there is none to keep.

    That is one of which a file is missing or could not be written, or of voxels beside their header, whose changes the
    digest does not show.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if summary["schema_version"] != SCHEMA_VERSION:
            return ["of another version"]
        known = text, digest, voxels = summary["prompt"]["text"], summary["settings_digest"], summary["image_sha256"]
        complete = all((folder / name).is_file() for name in summary["files"])
        if not all(known) or not complete or set(summary["not_written"].values()) - {NOTHING_FOUND}:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    beside = request.image.lower().endswith(DETACHED_SUFFIXES)
    differs = {
        f"of {text!r:.60}": text != request.prompt.text,
        "by other weights, settings or another version": digest != request.settings_digest,
        "of other voxels": not beside and voxels != content_digest(request.image),
    }
    return [why for why, true in differs.items() if true] or (None if beside else [])


class SaveSegmentationd(MapTransform):
    """Write the segmentation of one request into its result folder, ``<output_dir>/<output_name>/``.

    - ``labels.nii.gz``: merged map, uint8 (uint16 beyond 255 classes), voxel value = class index; where classes
      overlap the later class of the class set wins, which puts tumours over their organs;
    - ``<structure>.nii.gz``: one mask per structure of the prompt, 0 or 1, overlaps kept;
    - ``entropy.nii.gz``, where requested: how unsure the network is, in bits, see ``Segmentation``;
    - ``segmentation.dcm``, ``rtstruct.dcm``: the structures that were found, where ``formats`` has them;
    - ``summary.json``: see ``summary.schema.json`` beside this module;
    - ``preview.png``: three planes with contours.

    All have exactly the image's shape and affine. The folder appears whole, replacing an earlier one, or not at all.

    Args:
        keys: the ``Segmentation`` of the image, on its own grid.
        weights: their path, for the summary.
        formats: what is written besides summary and picture (``custom.outputs.formats``).
        overwrite: replace the result of another request too, as ``custom.engines.pending_requests`` permits it.

    Raises:
        ValueError: the prediction's grid is not the image's; another run has written another result meanwhile; a DICOM
            format could not be written, though the others were.
        OutputError: the folder cannot be written, or is full.
    """

    def __init__(
        self,
        keys: KeysCollection,
        class_set: ClassSet,
        output_dir: str | Path,
        *,
        weights: str | Path,
        formats: Any = NIFTI,
        overwrite: bool = False,
    ) -> None:
        super().__init__(keys)
        self.class_set = class_set
        self.output_dir = Path(output_dir)
        self.weights = Path(weights)
        self.trained_on = trained_on(read_header(weights)) if self.weights.is_file() else "unknown data"
        self.formats = read_formats(formats)
        self.overwrite = overwrite

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        source = Path(data["image"].meta["filename_or_obj"])
        for key in self.key_iterator(data):
            image, found = open_image(source), data[key]
            if found.shape != image.shape or not np.allclose(found.affine, image.affine, atol=1e-3):
                raise ValueError(
                    f"The prediction must lie on the grid of {source}: shape {image.shape}, affine "
                    f"{image.affine.tolist()}; it has {found.shape} and {found.affine.tolist()}. Nothing was written."
                )
            values = read_voxels(image).astype(np.float32, copy=False)
            try:
                self._write(found, image, values, data)
            except OSError as error:
                if error.errno is None:  # of a reader, not of the system
                    raise
                raise OutputError(
                    f"The result of {source} could not be written to {self.output_dir}: {error.strerror}. Nothing of "
                    "it was left there. Free space or permit writing there, or choose another --output_dir."
                ) from error
        return dict(data)

    def _write(
        self, found: Segmentation, image: nib.Nifti1Image, values: npt.NDArray[np.float32], data: Mapping[Hashable, Any]
    ) -> None:
        source, request = Path(image.get_filename()), data["request"]
        masks = StructureMasks(found, request.prompt.structures, self.class_set)
        final = self.output_dir / request.output_name

        def check(folder: Path) -> None:  # again: another run may have written to it since the first check
            _check_folder(folder, source)
            if not self.overwrite and (why := differences(folder, request)):
                raise ValueError(
                    f"{folder} must not be replaced: another run has written a result there ({' and '.join(why)}). "
                    "Choose another --output_dir, or replace it with --overwrite True."
                )

        check(final)
        with atomic_folder(final, check=check) as folder:
            folder.mkdir()
            if NIFTI in self.formats:
                labels: npt.NDArray[Any] = np.zeros(found.shape, np.uint8 if len(self.class_set) < 256 else np.uint16)
                for item in sorted(masks, key=lambda item: item.index):
                    labels[masks[item]] = item.index
                write_label(labels, folder / "labels.nii.gz", like=image)
                for item, mask in masks.items():
                    write_label(mask.astype(np.uint8), folder / _file_name(item), like=image)
            if found.entropy is not None:
                write_label(found.entropy, folder / "entropy.nii.gz", like=image, slope=1 / 255)
            not_written = write_dicom(masks, folder, self.formats, like=image, trained_on=self.trained_on)
            summary = self._summarise(masks, values, image, data)
            written = [file.name for file in folder.iterdir()]
            summary |= {"files": sorted([*written, "summary.json", "preview.png"]), "not_written": not_written}
            (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
            understood = ", ".join(summary["prompt"]["understood"]) + READ_AS[request.prompt.prompt_text]
            texts = {"title": request.prompt.text, "subtitle": f"Understood: {understood}"}
            texts["note"] = f"Weights trained on {self.trained_on}. Research use only."
            window = intensity_window(values, self.class_set)
            write_preview(values, masks, image.affine, folder / "preview.png", window=window, **texts)
        if summary["not_found"]:
            logger.warning("Not found in %s: %s.", source.name, ", ".join(summary["not_found"]))
        logger.info("Written: %s (%s).", final, ", ".join(summary["files"]))
        for file, reason in not_written.items():
            logger.warning("Not written of %s: %s, since %s.", source.name, file, reason)
        if failed := {file: reason for file, reason in not_written.items() if reason != NOTHING_FOUND}:
            reasons = "; ".join(f"{file}: {reason}" for file, reason in failed.items())
            raise ValueError(f"Not all formats of {source} could be written ({reasons}). The others are in {final}.")

    def _summarise(
        self, masks: StructureMasks, values: npt.NDArray[np.float32], image: nib.Nifti1Image, data: Mapping[Any, Any]
    ) -> dict[str, Any]:
        request, nifti = data["request"], NIFTI in self.formats
        means = masks.segmentation.probability.items()
        probability = {label: None if mean is None else round(mean, 4) for label, mean in means}
        rows = [
            {
                "index": item.index,
                "name": self.class_set[item.index].name,
                "title": item.name,
                "within": structure.within and self.class_set[structure.within].name,
                "without": [self.class_set[index].name for index in structure.without],
                "snomed": {"value": item.snomed.value, "meaning": item.snomed.meaning},
                "mask": _file_name(item) if nifti else None,
                **measure(masks[item], values, image.affine),
                "mean_probability": probability[item.index],
            }
            for item, structure in masks.structures.items()
        ]
        return {
            "schema_version": SCHEMA_VERSION,
            "software": f"deep-film {custom.__version__}",
            "image": str(image.get_filename()),
            "image_sha256": data["image_sha256"],
            "settings_digest": request.settings_digest,
            "shape": list(image.shape),
            "affine": image.affine.round(6).tolist(),
            "affine_source": image.extra.get("affine_source", "header"),
            "weights": str(self.weights),
            "trained_on": self.trained_on,
            "class_set": self.class_set.name,
            "prompt": request.prompt.summary(),
            "found": [row["title"] for row in rows if row["voxels"]],
            "not_found": [row["title"] for row in rows if not row["voxels"]],
            "labels": "labels.nii.gz" if nifti else None,
            "entropy": None if masks.segmentation.entropy is None else "entropy.nii.gz",
            "classes": rows,
        }


@contextmanager
def added_files(folder: str | Path) -> Iterator[Path]:
    """Yield a copy of a result folder to add files to; ``summary.json`` lists them, and the copy replaces it.

    Raises:
        ValueError: another run has replaced the folder meanwhile.
    """
    before = (Path(folder) / "summary.json").read_bytes()

    def check(current: Path) -> None:
        if (current / "summary.json").read_bytes() != before:
            raise ValueError(f"Another run has replaced {current} meanwhile: nothing was added to it.")

    with atomic_folder(Path(folder), check=check) as copy:
        shutil.copytree(folder, copy)
        yield copy
        summary = json.loads((copy / "summary.json").read_text(encoding="utf-8"))
        summary["files"] = sorted(file.name for file in copy.iterdir())
        (copy / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _file_name(item: AnatomicalClass) -> str:
    return item.name.replace(" ", "_").replace("/", "_") + ".nii.gz"
