"""CT series of a PACS over DICOMweb, with finished labels stored there as DICOM segmentations."""

import colorsys
import logging
import math
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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
from custom.imageio.dicom_seg import FINISHED, read_dicom_seg, write_dicom_seg
from custom.imageio.dicom_series import read_series, series_to_nifti
from custom.utils.files import replace_folder
from lib.datastore.labels import is_part
from lib.datastore.local import FINAL, AtomicDatastore, Info, file_record
from lib.datastore.pacs import reading_response, search_series
from lib.errors import PacsError, RequestError

logger = logging.getLogger(__name__)

UID = re.compile(r"(?=.{3,64}\Z)\d+(\.\d+)+", re.ASCII)
_COUNT = "NumberOfSeriesRelatedInstances"
TISSUE = Code("85756007", "Tissue")

#: Seconds that the status waits for the PACS before it reports what was known last.
STATUS_PATIENCE = 0.5

#: Seconds for which the status is taken to be true.
STATUS_SECONDS = 20


class _Segmentation(NamedTuple):
    """A series of DICOM-SEG: when its newest instance was created, and its SeriesInstanceUID."""

    created: str
    uid: str


class DICOMSeriesDatastore(AtomicDatastore, DICOMWebDatastore):
    """Series of a PACS, identified by their SeriesInstanceUID, cached as DICOM and NIfTI in a local folder.

    A series is downloaded completely or not at all, and again when it has grown in the PACS. A finished label is kept
    here as NIfTI, then stored in the PACS as DICOM-SEG. Of a label here and the segmentations in the PACS the newest
    counts; one whose segments were all made by an algorithm (AUTOMATIC) is not finished, and does not count.

    Args:
        client: of the PACS.
        class_set: gives the codes and colours of structures that it knows.
        search_filter: which series are images, as a QIDO query.
        cache_path: of the files; MONAI Label's own in the home folder if empty.
    """

    def __init__(
        self, client: DICOMwebClient, *, class_set: ClassSet, search_filter: Mapping[str, Any], cache_path: str = ""
    ) -> None:
        self._fetching: dict[str, threading.Lock] = {}
        self._counting = threading.Lock()
        self._counted: tuple[float, dict[str, Any]] = (-math.inf, {"total": 0, "completed": 0, "label_tags": {}})
        super().__init__(
            client=client, search_filter=dict(search_filter), cache_path=cache_path or None, class_set=class_set
        )

    @cached(TTLCache(maxsize=16, ttl=10), lock=threading.Lock())  # for 10 s
    def list_images(self) -> list[str]:
        found = search_series(self._client, self._search_filter)
        return [uid for uid in (str(series.SeriesInstanceUID) for series in found) if UID.fullmatch(uid)]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        kept = {image_id for image_id, item in self._datastore.objects.items() if FINAL in item.labels}
        finished = kept | self._segmentations().keys()
        return [image_id for image_id in self.list_images() if image_id in finished]

    def status(self) -> dict[str, Any]:
        """Numbers of images and labels; those known last, and a note, where the PACS does not respond at once."""
        counting = threading.Thread(target=self._count, daemon=True)
        counting.start()
        counting.join(STATUS_PATIENCE)
        when, status = self._counted
        if time.monotonic() - when > STATUS_SECONDS:
            status = status | {"pacs": "It does not respond, or slowly: these numbers may be old."}
        return status

    def _count(self) -> None:
        if self._counting.acquire(blocking=False):
            try:
                self._counted = time.monotonic(), super().status()
            except (PacsError, requests.RequestException) as error:
                logger.warning("The PACS cannot be listed: %s.", type(error).__name__)
            finally:
                self._counting.release()

    @cached(TTLCache(maxsize=16, ttl=10), lock=threading.Lock())  # for 10 s
    def _segmentations(self) -> dict[str, _Segmentation]:
        """The newest finished segmentation in the PACS of each image that has one."""
        newest: dict[str, _Segmentation] = {}
        for series in search_series(self._client, {"Modality": "SEG"}):
            uid = str(series.SeriesInstanceUID)
            image_id, created = self._reference(str(series.StudyInstanceUID), uid)
            if image_id:
                newest[image_id] = max(newest.get(image_id, _Segmentation("", "")), _Segmentation(created, uid))
        return newest

    @cached({})
    def _reference(self, study: str, segmentation: str) -> tuple[str, str]:
        """The image of a series of segmentations, and date and time of the newest; "" if none is finished."""
        tags = ("00080023", "00080033", "00081115", "00620002", "00700080", "00700084")
        with reading_response("a segmentation"):
            instances = self._client.retrieve_series_metadata(study, segmentation)
            headers = [Dataset.from_json({tag: item[tag] for tag in tags if tag in item}) for item in instances]
            finished = [header for header in headers if _is_finished(header)]
            if not finished:
                return "", ""
            newest = max(finished, key=_created)
            referenced = newest.get("ReferencedSeriesSequence")
            return str(referenced[0].SeriesInstanceUID) if referenced else "", _created(newest)

    def add_image(self, image_id: str, image_filename: str, image_info: Info) -> str:
        """Refuse, since images are listed by the PACS."""
        raise RequestError("Images come from the PACS: send the DICOM series there.")

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image as NIfTI, fetched from the PACS if it is not cached.

        Raises:
            ValueError: not a UID; a series that is no volume (see ``read_series``).
            ImageNotFoundException: the PACS has no such series.
        """
        _require_uid(image_id)
        folder = self._folder(image_id)
        image = folder.with_name(f"{image_id}.nii.gz")
        try:
            series = self._series(image_id)
        except (PacsError, requests.RequestException):
            if not (image.exists() and folder.exists()):
                raise
            logger.warning("The PACS does not respond: a series is used as it was fetched before.")
            return str(image)
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
        _require_uid(uid)
        for series in search_series(self._client, {"SeriesInstanceUID": uid}):
            if series.SeriesInstanceUID == uid:
                return series
        raise ImageNotFoundException(f"Image {uid} not found")

    def _download(self, series: Dataset, folder: Path) -> list[Dataset]:
        """Write the instances of a series to a new folder and return their headers.

        Raises:
            PacsError: the PACS sends something else, or instances of another series, study or patient.
        """
        folder.mkdir()
        headers: list[Dataset] = []
        with reading_response("a series"):
            for instance in self._client.iter_series(str(series.StudyInstanceUID), str(series.SeriesInstanceUID)):
                for key in ("SeriesInstanceUID", "StudyInstanceUID", "PatientID"):
                    if (listed := str(series.get(key) or "").strip()) and str(instance.get(key)).strip() != listed:
                        raise PacsError(f"The PACS sent an instance of another {key} than it lists for this series.")
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
                raise PacsError(f"Only {arrived} of {series[_COUNT].value} slices came from the PACS. Try again.")
            slices = read_series(unfinished / image_id)
            known["Modality"] = slices.modality
            series_to_nifti(slices, unfinished / image.name)
            with self._lock:
                self._init_from_datastore_file()
                old = self._datastore.objects.get(image_id)
                image.unlink(missing_ok=True)
                replace_folder(self._folder(image_id), unfinished / image_id)
                (unfinished / image.name).replace(image)
                self._put(image_id, file_record(image.name, known), old.labels if old else {})

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: Info) -> str:
        """Save a label map; a final one is then stored in the PACS as DICOM-SEG, and read back.

        Raises:
            ValueError: see ``AtomicDatastore.save_label``; also a final label without structures or names.
            PacsError: the label is saved here, but is not in the PACS.
        """
        if label_tag != FINAL:
            return super().save_label(image_id, label_filename, label_tag, label_info)
        values, image, info = self._check_label(image_id, label_filename, label_tag, label_info)
        if not info.get("label_info"):
            raise ValueError(
                'A finished label must say what its values mean: label_info, [{"name": ..., "idx": value}].'
            )
        with suppress(ValueError, PacsError, requests.RequestException):  # what cannot be read stays in the PACS
            self.get_label_uri(image_id, FINAL)  # so that a newer one of another station is added to
        with self._lock:
            values, info = self._complete(image_id, values, image, info)
            if not values.any():
                raise ValueError("A finished label must have at least one voxel; nothing is drawn in this one.")
            self._keep_label(image_id, FINAL, values, image, info)
        try:
            with self._staging() as folder:
                items = {self._class_of(item["name"], item["idx"]): item for item in info["label_info"]}
                write_dicom_seg(
                    {structure: values == item["idx"] for structure, item in items.items()},
                    folder / "seg.dcm",
                    affine=image.affine,
                    series=read_series(self._folder(image_id)),
                    model_name="Deep FiLM",
                    model_version=custom.__version__,
                    algorithms={
                        structure: (item.get("algorithm_type", "SEMIAUTOMATIC"), item.get("model", ""))
                        for structure, item in items.items()
                    },
                    annotator=info.get("annotator", ""),
                    finished=True,
                )
                segmentation = pydicom.dcmread(folder / "seg.dcm")
            self._store(segmentation)
        except (ValueError, PacsError, requests.RequestException) as error:
            if isinstance(error, requests.RequestException):
                reason = type(error).__name__ if error.response is None else f"status {error.response.status_code}"
            else:
                reason = str(error)
            raise PacsError(
                f"The label is kept on this server, but is not in the PACS: {reason.rstrip('.')}. Save it again when "
                "that is mended; until a newer one is in the PACS, the label here counts."
            ) from error
        stored = {"SeriesInstanceUID": str(segmentation.SeriesInstanceUID), "created": _created(segmentation)}
        self.update_label_info(image_id, FINAL, stored)
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
        """Send a segmentation to the PACS and read it back: what a PACS says of it need not be so, or be readable."""
        with reading_response("storage"):
            response = self._client.store_instances([segmentation])
            if failed := response.get("FailedSOPSequence"):
                raise PacsError(f"the PACS refused its DICOM segmentation, failure reason {failed[0].FailureReason}")
        uids = [str(segmentation[key].value) for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
        try:
            with reading_response("the stored segmentation"):
                stored = self._client.retrieve_instance(*uids)
                same = np.array_equal(stored.pixel_array, segmentation.pixel_array)
        except (PacsError, requests.RequestException) as error:
            raise PacsError("the PACS took its DICOM segmentation, but does not return it") from error
        if not same or stored.SOPInstanceUID != segmentation.SOPInstanceUID:
            raise PacsError("the PACS took its DICOM segmentation, but returns another")

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of the label of an image, of the same id; a final one is read from the PACS if a newer one is there.

        Raises:
            ValueError: the segmentation is not of this image, or its segments overlap (see ``read_dicom_seg``).
        """
        path = str(LocalDatastore.get_label_uri(self, label_id, label_tag))
        if label_tag != FINAL:
            return path
        try:
            newest = self._segmentations().get(label_id)
        except (PacsError, requests.RequestException):
            if not path:
                raise
            logger.warning("The PACS does not respond: a label is served that may be newer there.")
            return path
        info = self.get_label_info(label_id, FINAL) if path else {}
        if not newest or (path and (newest.uid == info.get("SeriesInstanceUID") or newest.created <= _kept_at(info))):
            return path
        image = check_image(self.get_image_uri(label_id))
        with self._staging() as folder:
            headers = self._download(self._series(newest.uid), folder / "seg")
            finished = [number for number, header in enumerate(headers) if _is_finished(header)]
            latest = max(finished, key=lambda number: _created(headers[number]))
            inside = partial(is_part, class_set=self.class_set)
            values, names = read_dicom_seg(folder / "seg" / f"{latest:05d}.dcm", like=image, is_part=inside)
        found: Info = {"SeriesInstanceUID": newest.uid, "created": newest.created}
        found["label_info"] = [{"name": name, "idx": value} for value, name in names.items()]
        self._keep_label(label_id, FINAL, values, image, found)
        return str(LocalDatastore.get_label_uri(self, label_id, FINAL))

    def _download_labeled_data(self) -> None:
        """Fetch all segmented images and their labels."""
        for image_id in self.get_labeled_images():
            try:
                self.get_image_uri(image_id)
                self.get_label_uri(image_id, FINAL)
            except (ValueError, PacsError):
                logger.warning("Left out: a series that is no volume, or whose segmentation cannot be read onto it.")


def _require_uid(image_id: str) -> None:
    if not UID.fullmatch(image_id):
        raise ValueError(
            f"An image of a PACS is named by its SeriesInstanceUID (digits and dots), not {image_id!r:.100}."
        )


def _created(segmentation: Dataset) -> str:
    """Date and time of an instance, which sort as text."""
    return f"{segmentation.get('ContentDate') or '':8} {segmentation.get('ContentTime') or ''}"


def _kept_at(info: Mapping[str, Any]) -> str:
    """Date and time of a label that is kept here, as ``_created``: of its segmentation, or else of its saving."""
    return str(info.get("created") or f"{datetime.fromtimestamp(info.get('ts', 0)):%Y%m%d %H%M%S}")


def _is_finished(segmentation: Dataset) -> bool:
    """Whether a person has had a hand in any of the segments, or answers for what a model made."""
    segments = segmentation.get("SegmentSequence") or ()
    if segmentation.get("ContentCreatorName") or segmentation.get("ContentLabel") == FINISHED:
        return True
    return not segments or any(segment.get("SegmentAlgorithmType") != "AUTOMATIC" for segment in segments)
