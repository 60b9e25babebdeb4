"""A PACS that misbehaves: what the app makes of it, and that nothing is lost, left over or held up."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
from lib.datastore import open_datastore, pacs
from lib.datastore.dicomweb import DICOMSeriesDatastore
from lib.endpoints.guard import status_and_message
from lib.errors import PacsBusy, PacsError
from monailabel.config import settings
from pydicom.filebase import DicomBytesIO

from custom.anatomy.class_set import ClassSet
from custom.imageio.dicom_seg import write_dicom_seg
from custom.imageio.dicom_series import read_series
from tests.helpers import faulty_pacs as faults
from tests.helpers.dicom_series import write_series
from tests.helpers.faulty_pacs import Fault, FaultyPacs, run_faulty_pacs
from tests.helpers.server import Server
from tests.helpers.studies import closing

NAMES = [{"name": "liver", "idx": 6}, {"name": "spleen", "idx": 1}]

#: The series that is no CT.
MR = "1.2.3.4"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A series of 8 slices of 16x16."""
    folder = tmp_path_factory.mktemp("series")
    voxels = np.random.default_rng(0).integers(-100, 200, (16, 16, 8)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([5.0, 5, 5, 1])), folder / "ct.nii.gz")
    return write_series(folder / "ct.nii.gz", folder / "dicom", patient="ANNA")


@pytest.fixture
def faulty(files: list[Path]) -> Iterator[FaultyPacs]:
    with run_faulty_pacs(files) as running:
        yield running


@pytest.fixture
def store(
    faulty: FaultyPacs, class_set: ClassSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DICOMSeriesDatastore]:
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT", 0.5)
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setattr(pacs, "SERIES_TIMES", 2)
    monkeypatch.setattr(pacs, "MAX_BYTES", 2**20)
    monkeypatch.setattr(pacs, "MAX_STREAMED_BYTES", 2**22)
    with closing(open_datastore) as opener:
        opened = opener(faulty.address, class_set=class_set)
        with opened._client._session:
            yield opened


@pytest.fixture
def label(files: list[Path], store: DICOMSeriesDatastore, tmp_path: Path) -> tuple[str, str]:
    """The id of the image, and a finished label of it."""
    uid = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
    image = nib.load(store.get_image_uri(uid))
    values = np.zeros(image.shape, np.uint8)
    values[2:6, 2:6, 2:6], values[8:12, 8:12, 2:6] = 6, 1
    nib.save(nib.Nifti1Image(values, image.affine), tmp_path / "label.nii.gz")
    return uid, str(tmp_path / "label.nii.gz")


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """The address of a service of another kind, and the requests that reach it."""
    reached: list[str] = []

    class Secret(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reached.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"secret")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Secret) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", reached
        server.shutdown()


def _message(work: Callable[[], object]) -> str:
    """The message to the client of work that the PACS lets fail, as 502 or 503."""
    with pytest.raises((PacsError, requests.RequestException)) as caught:
        work()
    status, message = status_and_message(caught.value)
    assert status in (502, 503)
    return message


LISTS: dict[str, Fault] = {
    "html": faults.answers(b"<html>Please sign in</html>", "text/html"),
    "bytes": faults.answers(b"\x00\xff\xfe"),
    "nothing in it": faults.answers(b"[{}]"),
    "numbers": faults.answers(b"[1, null]"),
    "an object": faults.answers(b'{"a": 1}'),
    "a text": faults.answers(b'"series"'),
    "a UID without value": faults.answers(b'[{"0020000E": {"vr": "UI"}, "0020000D": {"vr": "UI"}}]'),
    "a UID of another type": faults.answers(b'[{"0020000E": {"vr": "UI", "Value": [{"a": 1}]}}]'),
    "a deep list": faults.answers(b"[" * 100_000),
    "an error": faults.answers(b"no", "text/plain", 500),
    "no access": faults.answers(b"no", "text/plain", 401),
    "too much": faults.never_ends,
    "nothing": faults.hangs,
    "drops": faults.drips,
    "drops of a body": faults.drips_after_headers,
}


@pytest.mark.parametrize("fault", LISTS.values(), ids=LISTS)
def test_a_list_that_is_none_is_a_failure_of_the_pacs(
    store: DICOMSeriesDatastore, faulty: FaultyPacs, fault: Fault
) -> None:
    faulty.faults["search"] = fault
    start = time.monotonic()
    assert "PACS" in _message(store.list_images)
    assert time.monotonic() - start < 5
    assert store.status()["pacs"]


SERIES: dict[str, Fault] = {
    "html": LISTS["html"],
    "garbage": faults.answers(b"\x00" * 2000, 'multipart/related; type="application/dicom"; boundary=x'),
    "no boundary": faults.answers(b"x", "multipart/related"),
    "parts of garbage": faults.sends(lambda items: [b"garbage" * 100]),
    "half of the slices": faults.sends(lambda items: items[:4]),
    "another series": faults.sends(lambda items: [_changed(item, SeriesInstanceUID="1.2.3.4") for item in items]),
    "another patient": faults.sends(lambda items: [_changed(item, PatientID="BERTA") for item in items]),
    "another study": faults.sends(lambda items: [*items[:7], _changed(items[7], StudyInstanceUID="1.2.3")]),
    "too much": faults.never_ends,
    "nothing": faults.hangs,
    "drops": faults.drips,
}


def _changed(content: bytes, **changes: str) -> bytes:
    dataset, written = pydicom.dcmread(DicomBytesIO(content)), DicomBytesIO()
    for key, value in changes.items():
        setattr(dataset, key, value)
    dataset.save_as(written)
    return bytes(written.getvalue())


@pytest.mark.parametrize("fault", SERIES.values(), ids=SERIES)
def test_a_series_that_is_another_leaves_nothing(
    store: DICOMSeriesDatastore, faulty: FaultyPacs, tmp_path: Path, fault: Fault
) -> None:
    faulty.faults["series"] = fault
    [uid] = store.list_images()
    assert "PACS" in _message(lambda: store.get_image_uri(uid))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and uid in str(path)]
    del faulty.faults["series"]
    assert nib.load(store.get_image_uri(uid)).shape == (16, 16, 8)


@pytest.mark.parametrize("kind", ["search", "series", "store"])
def test_a_redirect_to_another_address_is_not_followed(
    store: DICOMSeriesDatastore, faulty: FaultyPacs, label: tuple[str, str], elsewhere: tuple[str, list[str]], kind: str
) -> None:
    address, reached = elsewhere
    uid, file = label
    store._datastore.objects = {}
    faulty.faults[kind] = faults.redirects(address)
    work = {"search": lambda: store._series(uid), "series": lambda: store.get_image_uri(uid)}
    if kind == "store":
        store.get_image_uri(uid)
        work["store"] = lambda: store.save_label(uid, file, "final", {"label_info": NAMES})
    assert "redirects to another address" in _message(work[kind])
    assert reached == []


def test_a_redirect_within_the_pacs_is_followed_a_few_times(store: DICOMSeriesDatastore, faulty: FaultyPacs) -> None:
    def once(handler: faults.Handler) -> None:
        del faulty.faults["search"]
        faults.redirects(handler.path)(handler)

    faulty.faults["search"] = once
    assert len(store.list_images()) == 1
    faulty.faults["search"] = faults.redirects("/dicom-web/series")
    _message(lambda: store._series("1.2.3"))
    assert len(faulty.requests) <= 3 + pacs.MAX_REDIRECTS


STORES: dict[str, Fault] = {
    "refused": faults.answers(
        b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}',
        f"{faults.JSON}; charset=utf-8",
    ),
    "a login page": LISTS["html"],
    "taken, and forgotten": faults.answers(b"{}"),
    "no answer": faults.hangs,
    "an error": LISTS["an error"],
}


@pytest.mark.parametrize("fault", STORES.values(), ids=STORES)
def test_a_label_that_is_not_in_the_pacs_is_kept_here_and_said(
    store: DICOMSeriesDatastore, faulty: FaultyPacs, label: tuple[str, str], fault: Fault
) -> None:
    uid, file = label
    faulty.faults["store"] = fault
    message = _message(lambda: store.save_label(uid, file, "final", {"label_info": NAMES}))
    assert message.startswith("The label is kept on this server, but is not in the PACS")
    kept = np.asarray(nib.load(store.get_label_uri(uid, "final")).dataobj)
    assert (kept == np.asarray(nib.load(file).dataobj)).all()
    assert store.get_labeled_images() == [uid], "it is offered again"
    del faulty.faults["store"]
    store.save_label(uid, file, "final", {"label_info": NAMES})
    assert len(faulty.instances) == 2


def test_an_odd_series_costs_no_label(faulty: FaultyPacs, store: DICOMSeriesDatastore, label: tuple[str, str]) -> None:
    """What is optional is left out of the segmentation; where none can be written, the label is kept here."""
    uid, file = label
    slices = sorted(store.series_dir(uid).iterdir())
    for path in slices:
        slice_ = pydicom.dcmread(path)
        slice_.PatientBirthDate, slice_.StudyTime = "00000000", "12:00"
        del slice_.FrameOfReferenceUID
        slice_.save_as(path)
    store.save_label(uid, file, "final", {"label_info": NAMES})
    assert len(faulty.instances) == 2
    slices[3].unlink()
    message = _message(lambda: store.save_label(uid, file, "final", {"label_info": NAMES[::-1]}))
    assert "kept on this server" in message and "missing or duplicate" in message
    assert store.get_label_info(uid, "final")["label_info"] == NAMES[::-1]


@pytest.mark.parametrize("algorithm_type", ["AUTOMATIC", "MANUAL"])
def test_the_newest_segmentation_of_a_person_counts(
    store: DICOMSeriesDatastore,
    faulty: FaultyPacs,
    label: tuple[str, str],
    class_set: ClassSet,
    tmp_path: Path,
    algorithm_type: str,
) -> None:
    """One that another station stores later, of a label that is kept here; a machine's counts never."""
    uid, file = label
    store.save_label(uid, file, "final", {"label_info": NAMES})
    image = nib.load(store.get_image_uri(uid))
    mask = np.zeros(image.shape, bool)
    mask[4:9, 4:9, 1:4] = True
    write_dicom_seg(
        {class_set[7]: mask},
        tmp_path / "seg.dcm",
        affine=image.affine,
        series=read_series(store.series_dir(uid)),
        model_name="another station",
        model_version="1",
    )
    later = pydicom.dcmread(tmp_path / "seg.dcm")
    later.ContentDate = "20990101"
    for segment in later.SegmentSequence:
        segment.SegmentAlgorithmType = algorithm_type
    later.save_as(tmp_path / "seg.dcm")
    faulty.add((tmp_path / "seg.dcm").read_bytes())
    store._segmentations.cache.clear()  # type: ignore[union-attr]
    values = np.asarray(nib.load(store.get_label_uri(uid, "final")).dataobj)
    if algorithm_type == "MANUAL":
        assert (values.astype(bool) == mask).all()
    else:
        assert set(np.unique(values)) == {0, 1, 6}
    assert store.get_labeled_images() == [uid]


def test_requests_that_wait_for_a_pacs_are_few(faulty: FaultyPacs) -> None:
    faulty.faults["search"] = faults.hangs
    with (
        pacs.PacsSession(faulty.address, seconds=3, streamed_seconds=3, connections=2) as session,
        ThreadPoolExecutor(4) as threads,
    ):
        outcomes = list(threads.map(lambda _: _outcome(lambda: session.get(f"{faulty.address}/series")), range(4)))
        assert sorted(outcomes) == ["PacsBusy", "PacsBusy", "Timeout", "Timeout"]
        assert _outcome(lambda: session.get("http://127.0.0.1:1/")) == "PacsError"
        del faulty.faults["search"]
        assert session.get(f"{faulty.address}/series").ok


def _outcome(work: Callable[[], object]) -> str:
    try:
        work()
    except (PacsBusy, PacsError, requests.RequestException) as error:
        return type(error).__name__
    return "ok"


@pytest.fixture(scope="module")
def running(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, FaultyPacs]]:
    """A server on a PACS with two series, of which one is MR and listed as CT."""
    environment = {"MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT": "3"}
    with run_faulty_pacs(files) as faulty:
        for file in files:
            faulty.add(_changed(file.read_bytes(), SeriesInstanceUID=MR, Modality="MR"))
        faulty.listed[MR] = "CT"
        with Server(tmp_path_factory.mktemp("faulty"), faulty.address, environment=environment) as server:
            yield server, faulty


def test_the_server_answers_while_the_pacs_hangs(running: tuple[Server, FaultyPacs]) -> None:
    server, faulty = running
    faulty.faults |= {"search": faults.hangs, "metadata": faults.drips_after_headers}
    paths = ["/proxy/dicom/qido/studies", "/proxy/dicom/wado/studies/1.2/series/1.2/metadata", "/datastore/?output=all"]
    statuses = []

    def read(number: int) -> None:
        with requests.get(server.address + paths[number % 3], timeout=60, stream=True) as response:
            statuses.append(response.status_code)

    threads = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(60)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    for path in ("/info/", "/ohif/", "/info/"):
        start = time.monotonic()
        assert server.get(path).ok
        assert time.monotonic() - start < 2, path  # some 0.5 s; other tests run meanwhile
    faulty.faults.clear()
    for thread in threads:
        thread.join(40)
    assert len(statuses) == 60 and set(statuses) <= {200, 404, 502, 503}


def test_what_the_viewer_reads_is_passed_on_and_bounded(
    running: tuple[Server, FaultyPacs], elsewhere: tuple[str, list[str]]
) -> None:
    server, faulty = running
    faulty.faults.clear()
    uid = next(iter(faulty.instances))
    study = faulty.header(uid).StudyInstanceUID
    path = f"/proxy/dicom/wado/studies/{study}/series/{uid}"
    content = server.get(path).content
    assert all(item in content for item in faulty.instances[uid])
    before = server.memory()
    faulty.faults["series"] = faults.never_ends
    received = 0
    with server.get(path, stream=True, timeout=60) as response:
        for piece in response.iter_content(2**20):
            received += len(piece)
            if received >= 2**29:
                break
        highest = server.memory()
    assert highest - before < 2**27
    faulty.faults["series"] = faults.redirects(elsewhere[0])
    refused = server.get(path)
    assert (refused.status_code, elsewhere[1]) == (502, [])
    assert "redirects to another address" in refused.json()["detail"]


def test_a_series_of_another_modality_is_refused(running: tuple[Server, FaultyPacs]) -> None:
    server, faulty = running
    faulty.faults.clear()
    response = server.infer("liver", MR)
    assert response.status_code == 400 and "must be CT; the header of the series says Modality MR" in response.text


def test_an_environments_proxy_and_passwords_change_nothing(
    faulty: FaultyPacs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The time is bounded through a proxy, too, and no password of ~/.netrc goes out."""
    (tmp_path / "netrc").write_text("default login anna password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", faulty.address.removesuffix("/dicom-web"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    sent: list[str | None] = []

    def drips(handler: faults.Handler) -> None:
        sent.append(handler.headers["Authorization"])
        faults.drips_after_headers(handler)

    faulty.faults["search"] = drips
    address = "http://pacs.example/dicom-web"
    with pacs.PacsSession(address, seconds=0.5, streamed_seconds=0.5, connections=2) as session:
        start = time.monotonic()
        assert _outcome(lambda: session.get(f"{address}/series")) == "Timeout"
        assert time.monotonic() - start < 5
    assert sent == [None]
