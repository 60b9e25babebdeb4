"""The PACS datastore on a real Orthanc: series to NIfTI, finished labels to DICOM-SEG and back."""

import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import requests
from lib.datastore import open_datastore
from lib.datastore.dicomweb import DICOMSeriesDatastore
from lib.errors import PacsError
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.interfaces.exception import ImageNotFoundException

from custom.anatomy.class_set import ClassSet
from custom.imageio.nifti import onto_grid
from custom.tools.phantoms.scene import make_phantom
from tests.helpers.dicom_series import write_series
from tests.helpers.pacs import needs_orthanc, run_orthanc, upload
from tests.helpers.studies import closing

pytestmark = [pytest.mark.pacs, needs_orthanc]

NAMES = [{"name": "liver", "idx": 6}, {"name": "Übergröße", "idx": 9}, {"name": "not drawn", "idx": 4}]


class Phantom(NamedTuple):
    """A CT as NIfTI and as DICOM files, and a finished label of it."""

    image: nib.Nifti1Image
    label: npt.NDArray[np.uint8]
    files: list[Path]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Phantom:
    folder = tmp_path_factory.mktemp("phantom")
    made = make_phantom(1, spacing=(9.0, 8.0, 7.0))
    image = nib.Nifti1Image(np.round(made.image).astype(np.int16), made.affine)
    nib.save(image, folder / "image.nii.gz")
    label = np.where(made.label == 6, 6, np.where(made.label == 1, 9, 0)).astype(np.uint8)
    return Phantom(image, label, write_series(folder / "image.nii.gz", folder / "series"))


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[str]:
    with run_orthanc(tmp_path / "orthanc") as address:
        yield address


Opener = Callable[..., DICOMSeriesDatastore]


@pytest.fixture
def open_pacs(orthanc: str, class_set: ClassSet, tmp_path: Path) -> Iterator[Opener]:
    with closing(DICOMSeriesDatastore) as opener:

        def open_it(cache: str = "cache", address: str = orthanc, **prefixes: str) -> DICOMSeriesDatastore:
            client = DICOMwebClientX(url=f"{address}/dicom-web", **prefixes)
            filters = {"Modality": "CT"}
            return opener(client, class_set=class_set, search_filter=filters, cache_path=str(tmp_path / cache))

        yield open_it


@pytest.fixture
def label(phantom: Phantom, tmp_path: Path) -> str:
    nib.save(nib.Nifti1Image(phantom.label, phantom.image.affine), tmp_path / "label.nii.gz")
    return str(tmp_path / "label.nii.gz")


def _values(path: str, like: nib.Nifti1Image) -> npt.NDArray[Any]:
    image = nib.load(path)
    return onto_grid(np.asarray(image.dataobj), image.affine, shape=like.shape, to_affine=like.affine)


def _segmentations(orthanc: str) -> list[Any]:
    query = {"Level": "Instance", "Query": {"Modality": "SEG"}}
    found = requests.post(f"{orthanc}/tools/find", json=query, timeout=10).json()
    files = (requests.get(f"{orthanc}/instances/{item}/file", timeout=10).content for item in found)
    return [pydicom.dcmread(pydicom.filebase.DicomBytesIO(file)) for file in files]


def test_a_series_is_an_image(orthanc: str, open_pacs: Opener, phantom: Phantom) -> None:
    uid = upload(orthanc, phantom.files)
    store = open_pacs()
    assert store.list_images() == [uid]
    assert store.get_unlabeled_images() == [uid]
    path = store.get_image_uri(uid)
    assert (_values(path, phantom.image) == np.asarray(phantom.image.dataobj)).all()
    assert len(list(store.series_dir(uid).iterdir())) == len(phantom.files)
    fetched = Path(path).stat().st_mtime_ns
    assert store.get_image_uri(uid) == path
    assert open_pacs().get_image_uri(uid) == path
    assert Path(path).stat().st_mtime_ns == fetched
    assert "PatientID" not in store.get_image_info(uid)


def test_a_pacs_is_opened_by_its_address(
    orthanc: str, class_set: ClassSet, phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "cache"))
    uid = upload(orthanc, phantom.files)
    store = open_datastore(f"{orthanc}/dicom-web/", class_set=class_set)
    assert isinstance(store, DICOMSeriesDatastore)
    assert store.status() == {"total": 1, "completed": 0, "label_tags": {}}
    assert store.get_image_uri(uid).startswith(str(tmp_path / "cache"))
    store._observer.stop()


def test_a_finished_label_goes_to_the_pacs_and_comes_back(
    orthanc: str, open_pacs: Opener, phantom: Phantom, label: str
) -> None:
    uid = upload(orthanc, phantom.files)
    store = open_pacs()
    store.save_label(uid, label, "original", {})
    assert _segmentations(orthanc) == []
    store.save_label(uid, label, "final", {"label_info": NAMES})
    (sent,) = _segmentations(orthanc)
    liver, other = sent.SegmentSequence
    assert [liver.SegmentLabel, other.SegmentLabel] == ["liver", "Übergröße"]
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert other.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    assert liver.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert (_values(store.get_label_uri(uid, "final"), phantom.image) == phantom.label).all()
    assert store.get_label_info(uid, "final")["SeriesInstanceUID"] == sent.SeriesInstanceUID

    elsewhere = open_pacs("another computer")
    assert elsewhere.get_labeled_images() == [uid]
    (pair,) = elsewhere.datalist()
    assert (_values(pair["image"], phantom.image) == np.asarray(phantom.image.dataobj)).all()
    assert (_values(pair["label"], phantom.image) == np.select([phantom.label == 6, phantom.label == 9], [1, 2])).all()
    names = elsewhere.get_label_info(uid, "final")["label_info"]
    assert names == [{"name": "liver", "idx": 1}, {"name": "Übergröße", "idx": 2}]
    assert elsewhere.get_label_uri(uid, "original") == ""


def test_the_newest_segmentation_counts(orthanc: str, open_pacs: Opener, phantom: Phantom, label: str) -> None:
    uid = upload(orthanc, phantom.files)
    store = open_pacs()
    for name in ("first", "second"):
        store.save_label(uid, label, "final", {"label_info": [{"name": name, "idx": 6}, {"name": "rest", "idx": 9}]})
    elsewhere = open_pacs("another computer")
    elsewhere.get_label_uri(uid, "final")
    assert elsewhere.get_label_info(uid, "final")["label_info"][0]["name"] == "second"


def test_a_final_label_without_names_or_structures_is_refused(
    orthanc: str, open_pacs: Opener, phantom: Phantom, label: str, tmp_path: Path
) -> None:
    uid = upload(orthanc, phantom.files)
    store = open_pacs()
    with pytest.raises(ValueError, match="must say what its values mean"):
        store.save_label(uid, label, "final", {})
    nib.save(nib.Nifti1Image(phantom.label * 0, phantom.image.affine), tmp_path / "empty.nii.gz")
    with pytest.raises(ValueError, match="at least one voxel"):
        store.save_label(uid, str(tmp_path / "empty.nii.gz"), "final", {"label_info": NAMES})
    nib.save(nib.Nifti1Image(phantom.label[1:], phantom.image.affine), tmp_path / "other.nii.gz")
    with pytest.raises(ValueError, match="voxels of its image"):
        store.save_label(uid, str(tmp_path / "other.nii.gz"), "final", {"label_info": NAMES})
    assert _segmentations(orthanc) == []
    assert store.get_label_uri(uid, "final") == ""


def test_a_label_that_the_pacs_refuses_is_saved_all_the_same(
    orthanc: str, open_pacs: Opener, phantom: Phantom, label: str
) -> None:
    uid = upload(orthanc, phantom.files)
    store = open_pacs(stow_url_prefix="nowhere")
    with pytest.raises(PacsError, match=r"kept on this server.*status 404"):
        store.save_label(uid, label, "final", {"label_info": NAMES})
    assert (_values(store.get_label_uri(uid, "final"), phantom.image) == phantom.label).all()
    assert open_pacs().get_label_info(uid, "final")["label_info"] == NAMES


@pytest.mark.parametrize("uid", ["../../etc", "1.2/../../3", "..", "1", "1.2\n", "1." + "2" * 70, "", "*"])
def test_an_image_is_named_by_its_uid(open_pacs: Opener, uid: str, label: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*.nii*"))
    store = open_pacs()
    for call in (
        lambda: store.get_image_uri(uid),
        lambda: store.series_dir(uid),
        lambda: store.save_label(uid, label, "final", {"label_info": NAMES}),
    ):
        with pytest.raises(ValueError, match="named by its SeriesInstanceUID"):
            call()
    with pytest.raises(ImageNotFoundException):
        store.get_image_uri("1.2.3")
    assert sorted(tmp_path.rglob("*.nii*")) == before


def test_a_series_with_missing_slices_is_refused_until_they_come(
    orthanc: str, open_pacs: Opener, phantom: Phantom
) -> None:
    uid = upload(orthanc, phantom.files[:5] + phantom.files[6:])
    store = open_pacs()
    with pytest.raises(ValueError, match="missing or duplicate"):
        store.get_image_uri(uid)
    upload(orthanc, phantom.files[5:6])
    assert (_values(store.get_image_uri(uid), phantom.image) == np.asarray(phantom.image.dataobj)).all()


def test_a_series_that_was_still_arriving_is_fetched_anew(orthanc: str, open_pacs: Opener, phantom: Phantom) -> None:
    uid = upload(orthanc, phantom.files[:10])
    store = open_pacs()
    assert nib.load(store.get_image_uri(uid)).shape[2] == 10
    upload(orthanc, phantom.files[10:])
    assert (_values(store.get_image_uri(uid), phantom.image) == np.asarray(phantom.image.dataobj)).all()
    assert len(list(store.series_dir(uid).iterdir())) == len(phantom.files)


@pytest.fixture
def cutting(orthanc: str) -> Iterator[str]:
    """A proxy of Orthanc that breaks off in the middle of a series."""

    class Cut(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            response = requests.get(orthanc + self.path, headers={"Accept": self.headers["Accept"]}, timeout=30)
            size = len(response.content) // (2 if "/series/" in self.path else 1)
            self.send_response(response.status_code)
            self.send_header("Content-Type", response.headers["Content-Type"])
            self.end_headers()
            self.wfile.write(response.content[:size])

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cut) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_an_interrupted_download_leaves_nothing(
    orthanc: str, cutting: str, open_pacs: Opener, phantom: Phantom, tmp_path: Path
) -> None:
    uid = upload(orthanc, phantom.files)
    store = open_pacs(address=cutting)
    with pytest.raises(PacsError, match=r"Only \d+ of \d+ slices"):
        store.get_image_uri(uid)
    assert not [path for path in tmp_path.rglob(f"{uid}*") if path.suffix != ".log"]
    assert list((Path(store._datastore_path) / ".unfinished").iterdir()) == []
    assert (_values(open_pacs().get_image_uri(uid), phantom.image) == np.asarray(phantom.image.dataobj)).all()


def test_a_lost_cache_is_fetched_again(orthanc: str, open_pacs: Opener, phantom: Phantom) -> None:
    uid = upload(orthanc, phantom.files)
    store = open_pacs()
    shutil.rmtree(store.series_dir(uid))
    assert len(list(store.series_dir(uid).iterdir())) == len(phantom.files)
