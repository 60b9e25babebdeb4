"""CT series of a PACS over DICOMweb, with finished labels stored there as DICOM segmentations."""

import colorsys
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import requests
from cachetools import TTLCache, cached
from dicomweb_client import DICOMwebClient
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.exception import ImageNotFoundException
from pydicom.dataset import Dataset

import custom
from custom.anatomy.class_set import AnatomicalClass, ClassSet, Code
from custom.imageio.checks import check_image
from custom.imageio.dicom_seg import read_dicom_seg, write_dicom_seg
from custom.imageio.dicom_series import read_series, series_to_nifti
from custom.utils.files import replace_folder
from lib.datastore.local import FINAL, AtomicDatastore, Info, file_record
from lib.errors import PacsError, RequestError

logger = logging.getLogger(__name__)

UID = re.compile(r"(?=.{3,64}\Z)\d+(\.\d+)+", re.ASCII)
_COUNT = "NumberOfSeriesRelatedInstances"
TISSUE = Code("85756007", "Tissue")


class DICOMSeriesDatastore(AtomicDatastore, DICOMWebDatastore):
    """Series of a PACS, identified by their SeriesInstanceUID, cached as DICOM and NIfTI in a local folder.

    A series is downloaded completely or not at all, and again when it has grown in the PACS. A finished label is kept
    as NIfTI and stored in the PACS as DICOM-SEG; one finished elsewhere is read from there.

    Args:
        client: of the PACS.
        class_set: gives the codes and colours of structures that it knows.
        search_filter: which series are images, as a QIDO query.
        cache_path: of the files; MONAI Label's own in the home folder if empty.
    """

    def __init__(
        self, client: DICOMwebClient, *, class_set: ClassSet, search_filter: Mapping[str, Any], cache_path: str = ""
    ) -> None:
        self.class_set = class_set
        self._fetching: dict[str, threading.Lock] = {}
        super().__init__(client=client, search_filter=dict(search_filter), cache_path=cache_path or None)

    @cached(TTLCache(maxsize=16, ttl=10), lock=threading.Lock())  # for 10 s
    def list_images(self) -> list[str]:
        found = (Dataset.from_json(item) for item in self._client.search_for_series(search_filters=self._search_filter))
        return [uid for uid in (str(series.SeriesInstanceUID) for series in found) if UID.fullmatch(uid)]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        segmented = self._segmentations()
        return [image_id for image_id in self.list_images() if image_id in segmented]

    @cached(TTLCache(maxsize=16, ttl=10), lock=threading.Lock())  # for 10 s
    def _segmentations(self) -> dict[str, str]:
        """SeriesInstanceUID of the newest segmentation of each segmented image."""
        newest: dict[str, tuple[str, str]] = {}
        for item in self._client.search_for_series(search_filters={"Modality": "SEG"}):
            series = Dataset.from_json(item)
            uid = str(series.SeriesInstanceUID)
            image_id, created = self._reference(str(series.StudyInstanceUID), uid)
            newest[image_id] = max(newest.get(image_id, ("", "")), (created, uid))
        return {image_id: uid for image_id, (_, uid) in newest.items()}

    @cached({})
    def _reference(self, study: str, segmentation: str) -> tuple[str, str]:
        """The image of a segmentation, and the segmentation's date and time."""
        metadata = self._client.retrieve_series_metadata(study, segmentation)[0]
        tags = ("00080023", "00080033", "00081115")
        header = Dataset.from_json({tag: metadata[tag] for tag in tags if tag in metadata})
        referenced = header.get("ReferencedSeriesSequence")
        return str(referenced[0].SeriesInstanceUID) if referenced else "", _created(header)

    def add_image(self, image_id: str, image_filename: str, image_info: Info) -> str:
        """Refuse, since images are listed by the PACS."""
        raise RequestError("Images come from the PACS: send the DICOM series there.")

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image as NIfTI, fetched from the PACS if it is not cached.

        Raises:
            ValueError: not a UID; a series that is no volume (see ``read_series``).
            ImageNotFoundException: the PACS has no such series.
        """
        series = self._series(image_id)
        folder = self._folder(image_id)
        image = folder.with_name(f"{image_id}.nii.gz")
        with self._fetching.setdefault(image_id, threading.Lock()):
            complete = image.exists() and folder.exists()
            if not complete or self.get_image_info(image_id).get(_COUNT) != str(series.get(_COUNT, "")):
                self._fetch(series, image)
        return str(image)

    def series_dir(self, image_id: str) -> Path:
        """Folder with the DICOM slices of an image; see ``get_image_uri``."""
        self.get_image_uri(image_id)
        return self._folder(image_id)

    def _folder(self, image_id: str) -> Path:
        return Path(self._datastore.image_path()).resolve() / image_id

    def _series(self, uid: str) -> Dataset:
        """The PACS's entry of a series."""
        if not UID.fullmatch(uid):
            raise ValueError(
                f"An image of a PACS is named by its SeriesInstanceUID (digits and dots), not {uid!r:.100}."
            )
        for item in self._client.search_for_series(search_filters={"SeriesInstanceUID": uid}):
            series = Dataset.from_json(item)
            if series.SeriesInstanceUID == uid:
                return series
        raise ImageNotFoundException(f"Image {uid} not found")

    def _download(self, series: Dataset, folder: Path) -> list[Dataset]:
        """Write the instances of a series to a new folder and return their headers."""
        folder.mkdir()
        headers: list[Dataset] = []
        for instance in self._client.iter_series(str(series.StudyInstanceUID), str(series.SeriesInstanceUID)):
            instance.save_as(folder / f"{len(headers):05d}.dcm")
            instance.pop("PixelData", None)
            headers.append(instance)
        return headers

    def _fetch(self, series: Dataset, image: Path) -> None:
        """Download the slices of a series and convert them to NIfTI, which is put in place last."""
        image_id = str(series.SeriesInstanceUID)
        known = {key: str(series.get(key, "")) for key in ("SeriesInstanceUID", "StudyInstanceUID", "Modality", _COUNT)}
        with self._staging() as unfinished:
            arrived = len(self._download(series, unfinished / image_id))
            if arrived < int(series.get(_COUNT) or 0):
                raise ValueError(f"Only {arrived} of {series[_COUNT].value} slices came from the PACS. Try again.")
            series_to_nifti(read_series(unfinished / image_id), unfinished / image.name)
            with self._lock:
                self._init_from_datastore_file()
                old = self._datastore.objects.get(image_id)
                image.unlink(missing_ok=True)
                replace_folder(self._folder(image_id), unfinished / image_id)
                (unfinished / image.name).replace(image)
                self._put(image_id, file_record(image.name, known), old.labels if old else {})

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: Info) -> str:
        """Save a label map; a final one is stored in the PACS as DICOM-SEG too.

        Raises:
            ValueError: see ``AtomicDatastore.save_label``; also a final label without structures or names.
            PacsError: the label is saved, but the PACS did not accept it.
        """
        if label_tag != FINAL:
            return super().save_label(image_id, label_filename, label_tag, label_info)
        values, image, info = self._check_label(image_id, label_filename, label_tag, label_info)
        if not (named := info.get("label_info")):
            raise ValueError(
                'A finished label must say what its values mean: label_info, [{"name": ..., "idx": value}].'
            )
        with self._staging() as folder:
            write_dicom_seg(
                {self._class_of(item["name"], item["idx"]): values == item["idx"] for item in named},
                folder / "seg.dcm",
                affine=image.affine,
                series=read_series(self._folder(image_id)),
                model_name="Deep FiLM, finished by a person",
                model_version=custom.__version__,
                algorithm_type="SEMIAUTOMATIC",
            )
            segmentation = pydicom.dcmread(folder / "seg.dcm")
        self._keep_label(image_id, FINAL, values, image, info)
        self._store(segmentation)
        self.update_label_info(image_id, FINAL, {"SeriesInstanceUID": str(segmentation.SeriesInstanceUID)})
        return image_id

    def _class_of(self, name: str, value: int) -> AnatomicalClass:
        """The class of this name; a tissue with a colour of its own if the class set does not know it."""
        try:
            known = self.class_set[self.class_set.index(name)]
        except ValueError:
            red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(0.618 * value % 1, 0.6, 0.9))
            known = AnatomicalClass(value, name, (), None, TISSUE, None, (red, green, blue), category=TISSUE)
        return replace(known, name=name, index=value)

    def _store(self, segmentation: Dataset) -> None:
        try:
            failed = self._client.store_instances([segmentation]).get("FailedSOPSequence")
            reason = f"failure reason {failed[0].get('FailureReason')}" if failed else ""
        except requests.RequestException as error:
            reason = type(error).__name__ if error.response is None else f"status {error.response.status_code}"
        if reason:
            raise PacsError(
                f"The label is kept on this server, but the PACS did not take its DICOM segmentation ({reason}). Save "
                "it again when the PACS accepts it."
            )

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of the label of an image, of the same id; a final one that is not cached is read from the PACS.

        Raises:
            ValueError: the segmentation is not of this image (see ``read_dicom_seg``).
        """
        path = str(LocalDatastore.get_label_uri(self, label_id, label_tag))
        if path or label_tag != FINAL or not (segmentation := self._segmentations().get(label_id)):
            return path
        image = check_image(self.get_image_uri(label_id))
        with self._staging() as folder:
            headers = self._download(self._series(segmentation), folder / "seg")
            latest = max(range(len(headers)), key=lambda number: _created(headers[number]))
            values, names = read_dicom_seg(folder / "seg" / f"{latest:05d}.dcm", like=image)
        info = {"label_info": [{"name": name, "idx": value} for value, name in names.items()]}
        self._keep_label(label_id, FINAL, values, image, info | {"SeriesInstanceUID": segmentation})
        return str(LocalDatastore.get_label_uri(self, label_id, FINAL))

    def _download_labeled_data(self) -> None:
        """Fetch all segmented images and their labels."""
        for image_id in self.get_labeled_images():
            try:
                self.get_image_uri(image_id)
                self.get_label_uri(image_id, FINAL)
            except ValueError:
                logger.warning("Left out: a series that is no volume, or whose segmentation is on another grid.")


def _created(segmentation: Dataset) -> str:
    return f"{segmentation.get('ContentDate', '')} {segmentation.get('ContentTime', '')}"
