"""The folder datastore: which labels it accepts, and that nothing is lost or half-written."""

import gzip
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import requests
import SimpleITK as sitk  # noqa: N813
from lib.activelearning.uncertainty import STRATEGIES
from lib.datastore import open_datastore
from lib.datastore.labels import embedded_info
from lib.datastore.local import REPLACED_LABELS, NiftiDatastore
from lib.schemas import UNSAFE_ID
from monailabel.config import settings
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from custom.anatomy.class_set import ClassSet
from tests.helpers import ROOT
from tests.helpers.studies import closing
from tests.helpers.waiting import wait_until

AFFINE = np.array([[0, 0, 3.0, -10], [-2.0, 0, 0, 20], [0, 1.5, 0, -30], [0, 0, 0, 1]])  # axes in another order
SHAPE = (11, 13, 7)
LIVER = {"label_info": [{"name": "liver", "idx": 1}]}

Values = npt.NDArray[Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, one of them not compressed, and other files."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for name in ("a.nii.gz", "b.nii", "c.v1.nii.gz"):
        nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE), folder / name)
    for name in ("notes.txt", "picture.png", "d.nrrd", ".hidden.nii.gz"):
        (folder / name).write_bytes(b"")
    return folder


@pytest.fixture
def open_folder(folder: Path, class_set: ClassSet) -> Iterator[Callable[[], NiftiDatastore]]:
    with closing(NiftiDatastore) as opener:
        yield partial(opener, folder, class_set=class_set)


@pytest.fixture
def store(open_folder: Callable[[], NiftiDatastore]) -> NiftiDatastore:
    return open_folder()


def _label(path: Path, values: Values | None = None, affine: Values = AFFINE) -> str:
    nib.save(nib.Nifti1Image(_truth() if values is None else values, affine), path)
    return str(path)


def _truth() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 2, SHAPE, dtype=np.uint8)


def _saved(store: NiftiDatastore, image_id: str = "a", tag: str = "final") -> Values:
    return np.asarray(nib.load(store.get_label_uri(image_id, tag)).dataobj)


def _names(store: NiftiDatastore, image_id: str = "a") -> list[dict[str, Any]]:
    names: list[dict[str, Any]] = store.get_label_info(image_id, "final")["label_info"]
    return names


def test_only_nifti_images_are_listed(store: NiftiDatastore, folder: Path, class_set: ClassSet) -> None:
    assert sorted(store.list_images()) == ["a", "b", "c.v1"]
    assert store.get_image_uri("c.v1") == str(folder / "c.v1.nii.gz")
    opened = open_datastore(str(folder), class_set=class_set)
    assert isinstance(opened, NiftiDatastore)
    opened._observer.stop()


def test_a_label_is_kept_with_its_names(store: NiftiDatastore, tmp_path: Path) -> None:
    names = [{"name": "liver", "idx": 1, "color": "red"}, {"name": "Milz", "id": 7}]
    store.save_label("a", _label(tmp_path / "l.nii.gz"), "final", {"label_info": names, "user": "x"})
    assert (_saved(store) == _truth()).all()
    assert np.allclose(nib.load(store.get_label_uri("a", "final")).affine, AFFINE)
    assert _names(store) == [{"name": "liver", "idx": 1}, {"name": "Milz", "idx": 7}]
    assert store.get_label_info("a", "final")["user"] == "x"
    assert store.get_labeled_images() == ["a"]
    assert sorted(store.get_unlabeled_images()) == ["b", "c.v1"]
    store.remove_label("a", "final")
    assert store.get_labeled_images() == []


@pytest.mark.parametrize("turn", [[[0, 1], [1, 1], [2, 1]], [[1, -1], [2, 1], [0, -1]]])
@pytest.mark.parametrize("suffix", [".nrrd", ".seg.nrrd", ".nii"])
def test_axes_may_be_in_another_order(
    store: NiftiDatastore, tmp_path: Path, suffix: str, turn: list[list[int]]
) -> None:
    turned = nib.Nifti1Image(_truth(), AFFINE).as_reoriented(np.array(turn))
    path = tmp_path / f"label{suffix}"
    if suffix == ".nii":
        nib.save(turned, path)
    else:
        nib.save(turned, tmp_path / "turned.nii.gz")
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "turned.nii.gz")), str(path), True)
    store.save_label("b", str(path), "final", LIVER)
    assert (_saved(store, "b") == _truth()).all()
    assert nib.load(store.get_label_uri("b", "final")).get_data_dtype() == np.uint8


def _nrrd(path: Path, header: str = "", values: Values | None = None) -> str:
    image = sitk.GetImageFromArray((_truth() if values is None else values).transpose())
    sitk.WriteImage(image, str(path))
    if header:
        content = path.read_bytes().split(b"\n\n", 1)
        path.write_bytes(content[0] + b"\n" + header.encode() + b"\n\n" + content[1])
    return str(path)


def _text(path: Path) -> str:
    path.write_text("no image")
    return str(path)


def _cut(path: Path) -> str:
    noise = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    content = gzip.compress(nib.Nifti1Image(noise, AFFINE).to_bytes())
    path.write_bytes(content[:-100])
    return str(path)


def _damage(path: Path) -> str:
    """A voxel differs from what was compressed; only the checksum shows it."""
    content = gzip.compress(nib.Nifti1Image(_truth(), AFFINE).to_bytes(), compresslevel=0)
    path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    return str(path)


SAME_GRID = "voxels of its image"
INVALID_LABELS: dict[str, tuple[str, str, Callable[[Path], str]]] = {
    "probabilities": ("whole numbers", ".nii.gz", partial(_label, values=_truth() * np.float32(0.5))),
    "not a number": ("whole numbers", ".nii.gz", partial(_label, values=np.full(SHAPE, np.nan, np.float32))),
    "too many": ("whole numbers", ".nii.gz", partial(_label, values=_truth() * np.int16(300))),
    "negative": ("whole numbers", ".nii.gz", partial(_label, values=_truth() * np.int16(-1))),
    "shape": (SAME_GRID, ".nii.gz", partial(_label, values=_truth()[1:])),
    "position": (SAME_GRID, ".nii.gz", partial(_label, affine=AFFINE + np.eye(4)[:, [3, 3, 3, 0]])),
    "mirrored": (SAME_GRID, ".nii.gz", partial(_label, affine=AFFINE * [[-1], [1], [1], [1]])),
    "huge": (SAME_GRID, ".nii", partial(_label, values=np.broadcast_to(np.uint8(0), (4000, 900, 1)))),
    "nrrd on another grid": (SAME_GRID, ".nrrd", _nrrd),
    "nrrd of vectors": ("three axes", ".nrrd", partial(_nrrd, values=np.zeros((*SHAPE, 2), np.uint8))),
    "nrrd of another file": ("names another file", ".nrrd", partial(_nrrd, header="Data File: /etc/passwd")),
    "nrrd of text": ("cannot be read as NRRD", ".nrrd", _text),
    "text": ("cannot be read", ".nii.gz", _text),
    "cut short": ("cut short", ".nii.gz", _cut),
    "damaged": ("damaged or cut short", ".nii.gz", _damage),
    "raw": ("must be a .nii.gz", ".bin", _text),
}
INVALID_NAMES: dict[str, tuple[str, list[Any]]] = {
    "no list": ("label_info must be a list", ["liver"]),
    "no value": ("label_info must be a list", [{"name": "liver"}]),
    "twice": ("name each voxel value once", [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 1}]),
    "nameless": ("name every value", [{"name": "liver", "idx": 2}]),
}


@pytest.mark.parametrize(
    ("reason", "suffix", "write", "names"),
    [
        *((*invalid, None) for invalid in INVALID_LABELS.values()),
        *((reason, ".nii.gz", _label, names) for reason, names in INVALID_NAMES.values()),
    ],
    ids=[*INVALID_LABELS, *INVALID_NAMES],
)
def test_an_invalid_label_is_refused(
    store: NiftiDatastore, tmp_path: Path, reason: str, suffix: str, write: Callable[[Path], str], names: Any
) -> None:
    store.save_label("a", _label(tmp_path / "before.nii.gz"), "final", LIVER)
    with pytest.raises(ValueError, match=reason):
        store.save_label("a", write(tmp_path / f"label{suffix}"), "final", {"label_info": names})
    assert (_saved(store) == _truth()).all()
    assert _names(store) == LIVER["label_info"]


def _parts(**boxes: tuple[int, slice]) -> tuple[Values, list[dict[str, Any]]]:
    """A label with a slab of the first axis for each structure, and its names."""
    values = np.zeros(SHAPE, np.uint8)
    for value, rows in boxes.values():
        values[rows] = value
    return values, [{"name": name.replace("_", " "), "idx": value} for name, (value, _) in boxes.items()]


def test_a_save_adds_and_replaces_what_it_draws(store: NiftiDatastore, folder: Path, tmp_path: Path) -> None:
    """What was finished before stays, in its part of a new organ too, until `replace` says otherwise."""

    def save(info: dict[str, Any] | None = None, **boxes: tuple[int, slice]) -> dict[str, list[int]]:
        values, names = _parts(**boxes)
        store.save_label("a", _label(tmp_path / "l.nii.gz", values), "final", {"label_info": names} | (info or {}))
        saved = _saved(store)
        return {item["name"]: np.flatnonzero((saved == item["idx"]).any((1, 2))).tolist() for item in _names(store)}

    save(liver_tumor=(1, slice(4, 6)), spleen=(2, slice(8, 10)))
    assert save(liver=(1, slice(2, 9))) == {"liver": [2, 3, 6, 7, 8], "liver tumor": [4, 5], "spleen": [9]}
    assert save(Spleen=(7, slice(0, 1))) == {"liver": [2, 3, 6, 7, 8], "liver tumor": [4, 5], "Spleen": [0]}
    named = save(aorta=(3, slice(10, 11)), liver=(4, slice(0, 0)))  # as Slicer names a segment that it does not draw
    assert named == {"liver": [2, 3, 6, 7, 8], "liver tumor": [4, 5], "Spleen": [0], "aorta": [10]}
    with pytest.raises(ValueError, match="does not: send label_info"):
        store.save_label("a", _label(tmp_path / "l.nii.gz"), "final", {})
    assert save({"replace": True, "client_id": "anna"}, aorta=(3, slice(10, 11))) == {"aorta": [10]}
    copies = sorted((folder / "labels" / "replaced" / "a").iterdir())
    assert len(copies) == 4
    assert [item["name"] for item in embedded_info(copies[-1])["label_info"]] == [
        "aorta",
        "Spleen",
        "liver",
        "liver tumor",
    ]
    assert store.get_label_info("a", "final")["client_id"] == "anna"
    for _ in range(REPLACED_LABELS):
        save(aorta=(3, slice(10, 11)))
    assert len(list((folder / "labels" / "replaced" / "a").iterdir())) == REPLACED_LABELS


def test_two_annotators_at_once_lose_nothing(store: NiftiDatastore, tmp_path: Path) -> None:
    structures = {"liver": 0, "spleen": 2, "aorta": 4, "colon": 6, "pancreas": 8}

    def save(name: str) -> None:
        values, names = _parts(**{name: (1, slice(structures[name], structures[name] + 2))})
        store.save_label("a", _label(tmp_path / f"{name}.nii.gz", values), "final", {"label_info": names})

    with ThreadPoolExecutor(5) as threads:
        list(threads.map(save, structures))
    saved = _saved(store)
    found = {item["name"]: int(np.flatnonzero((saved == item["idx"]).any((1, 2)))[0]) for item in _names(store)}
    assert found == structures


def _slicer(path: Path, values: Values, segments: list[tuple[str, int]]) -> str:
    """A file as Slicer saves a segmentation: its header has the name and the value of each segment."""
    image = sitk.GetImageFromArray(values.transpose())
    nib.save(nib.Nifti1Image(values, AFFINE), path.with_suffix(".nii.gz"))
    image = sitk.ReadImage(str(path.with_suffix(".nii.gz")))
    for number, (name, value) in enumerate(segments):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
        image.SetMetaData(f"Segment{number}_Layer", "0")
    sitk.WriteImage(image, str(path), True)
    return str(path)


def test_a_files_own_names_and_values_are_the_truth(store: NiftiDatastore, tmp_path: Path) -> None:
    """Slicer's request numbers segments by their place in the table, its file by their values."""
    values, _ = _parts(liver=(1, slice(0, 2)), spleen=(3, slice(4, 6)), kidney=(2, slice(8, 10)))
    file = _slicer(tmp_path / "l.seg.nrrd", values, [("liver", 1), ("spleen", 3), ("right kidney", 2)])
    table = [{"name": name, "idx": place} for place, name in enumerate(("liver", "spleen", "right kidney"), start=1)]
    for names in (table, []):
        store.save_label("a", file, "final", {"label_info": names, "replace": True})
        assert {item["name"]: item["idx"] for item in _names(store)} == {"liver": 1, "spleen": 3, "right kidney": 2}
        assert (_saved(store) == values).all()
    with pytest.raises(ValueError, match=r"own header names 'right kidney', which label_info does not: it has 'liver'"):
        store.save_label(
            "a", file, "final", {"label_info": [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 3}]}
        )
    twice = _slicer(tmp_path / "t.seg.nrrd", values, [("liver", 1), ("tumor", 1)])
    with pytest.raises(ValueError, match="'liver' and 'tumor' of the file share the value 1"):
        store.save_label("a", twice, "final", {"label_info": table})


def test_what_is_not_there_cannot_be_removed(store: NiftiDatastore) -> None:
    with pytest.raises(LabelNotFoundException, match="no label 'final' of the image 'a'"):
        store.remove_label("a", "final")
    with pytest.raises(ImageNotFoundException):
        store.remove_image("nosuch")


@pytest.mark.parametrize("name", ["labels", "Labels", "datastore_v2", "replaced"])
def test_names_of_the_datastore_are_no_ids(store: NiftiDatastore, folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="the datastore's own"):
        store.add_image(name, str(folder / "a.nii.gz"), {})


def test_what_is_listed_can_be_named(
    open_folder: Callable[[], NiftiDatastore], folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a..b", "with blank", "Müller", "CT 1 (2)", "a#b&c=d", "患者", "-dash", "x" * 200, "50%1", "q'uote"]
    for name in [*names, "new\nline", "back\\slash", "tab\there"]:
        (folder / f"{name}.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes())
    store = open_folder()
    assert sorted(store.list_images()) == sorted([*names, "a", "b", "c.v1"])
    assert "no request can name it" in caplog.text
    for name in names:
        assert not UNSAFE_ID.search(name)
        store.save_label(name, _label(tmp_path / "l.nii.gz"), "final", LIVER)
    assert sorted(store.get_labeled_images()) == sorted(names)


def test_ids_and_tags_cannot_be_paths(store: NiftiDatastore, folder: Path, tmp_path: Path) -> None:
    label = _label(tmp_path / "l.nii.gz")
    for tag in ("../../x", "", "a/b", ".x", "final\n"):
        with pytest.raises(ValueError, match="plain word"):
            store.save_label("a", label, tag, {})
    for image_id in ("../x", "/tmp/x", ".x", "a\n", "x" * 200):
        with pytest.raises(ValueError, match="its id at most 128"):
            store.add_image(image_id, str(folder / "a.nii.gz"), {})
        with pytest.raises(ImageNotFoundException):
            store.save_label(image_id, label, "final", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.nii.gz", "studies"]


def test_images_are_added_and_never_replace_a_labelled_one(store: NiftiDatastore, folder: Path, tmp_path: Path) -> None:
    assert store.add_image("", str(folder / "a.nii.gz"), {}) == "a"
    assert store.add_image("new", str(folder / "b.nii"), {"from": "scanner"}) == "new"
    assert store.get_image_info("new")["from"] == "scanner"
    store.save_label("new", _label(tmp_path / "l.nii.gz"), "final", LIVER)
    with pytest.raises(ValueError, match="with labels"):
        store.add_image("new", str(folder / "a.nii.gz"), {})
    for file in (folder / "notes.txt", folder / ".hidden.nii.gz"):
        with pytest.raises(ValueError, match=r"must be a (\.nii|NIfTI)"):
            store.add_image("other", str(file), {})
    store.remove_image("new")
    assert sorted(store.list_images()) == ["a", "b", "c.v1"]
    assert not list((folder / "labels").rglob("new*"))


def test_files_of_other_programs_are_noticed(store: NiftiDatastore, folder: Path, tmp_path: Path) -> None:
    (folder / ".incoming").write_bytes((folder / "a.nii.gz").read_bytes())
    (folder / ".incoming").rename(folder / "renamed.nii.gz")
    wait_until(lambda: "renamed" in store.list_images())
    _label(folder / "labels" / "final" / "renamed.nii.gz")
    wait_until(lambda: store.get_labeled_images() == ["renamed"])
    (folder / "renamed.nii.gz").unlink()
    wait_until(lambda: "renamed" not in store.list_images())


@pytest.mark.parametrize("damage", [b"", b'{"name": "new-data', b"\xff\xfe", b"[]", b'{"objects": 3}'])
def test_a_damaged_record_is_rebuilt_from_the_files(
    open_folder: Callable[[], NiftiDatastore],
    folder: Path,
    tmp_path: Path,
    damage: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    open_folder().save_label("a", _label(tmp_path / "l.nii.gz"), "final", LIVER)
    (folder / "datastore_v2.json").write_bytes(damage)
    again = open_folder()
    assert "was damaged" in caplog.text
    assert sorted(again.list_images()) == ["a", "b", "c.v1"]
    assert (_saved(again) == _truth()).all()
    assert _names(again) == LIVER["label_info"]
    assert [path.read_bytes() for path in folder.glob("datastore_v2.json.damaged-*")] == [damage]
    assert json.loads((folder / "datastore_v2.json").read_bytes())["objects"].keys() == {"a", "b", "c.v1"}


def test_the_record_of_an_older_run_is_read(folder: Path, open_folder: Callable[[], NiftiDatastore]) -> None:
    stock = LocalDatastore(str(folder), extensions=("*.nii.gz", "*.nii", "*.png"))
    stock.save_label("a", _label(folder.parent / "l.nii.gz"), "final", LIVER)
    again = open_folder()
    assert sorted(again.list_images()) == ["a", "b", "c.v1"]
    assert _names(again) == LIVER["label_info"]
    stock = LocalDatastore(str(folder), extensions=("*.nii.gz", "*.nii"))
    assert sorted(stock.list_images())[-3:] == ["a", "b", "c.v1"]


def test_two_servers_of_one_folder_lose_nothing(
    open_folder: Callable[[], NiftiDatastore], tmp_path: Path, folder: Path
) -> None:
    one, two = open_folder(), open_folder()
    one.save_label("a", _label(tmp_path / "l.nii.gz"), "final", LIVER)
    two.update_image_info("b", {"seen": True})
    one.save_label("c.v1", _label(tmp_path / "l.nii.gz"), "final", LIVER)
    record = json.loads((folder / "datastore_v2.json").read_bytes())["objects"]
    assert record["a"]["labels"]["final"]["info"]["label_info"] == LIVER["label_info"]
    assert record["b"]["image"]["info"]["seen"]
    assert record["c.v1"]["labels"]["final"]["info"]["label_info"] == LIVER["label_info"]


def test_many_threads_lose_nothing(store: NiftiDatastore, folder: Path, tmp_path: Path) -> None:
    label = _label(tmp_path / "l.nii.gz")

    def work(name: str) -> None:
        for turn in range(5):
            store.add_image(f"{name}{turn}", str(folder / "b.nii"), {})
            store.save_label(f"{name}{turn}", label, "final", LIVER)
            store.refresh()
            store.status()
            store.datalist()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, "wxyz"))
    assert len(store.list_images()) == 3 + 20
    assert sorted(store.get_labeled_images()) == sorted(f"{name}{turn}" for name in "wxyz" for turn in range(5))
    assert all(_names(store, image_id) == LIVER["label_info"] for image_id in store.get_labeled_images())


SAVES_FOREVER = """
import itertools, os, sys
import nibabel as nib, numpy as np
from lib.datastore.local import NiftiDatastore
from custom.anatomy.loading import load_class_set
folder, label = sys.argv[1:]
while start := sys.stdin.readline():
    worker = os.fork()
    if worker:
        os.waitpid(worker, 0)
        print("ended", flush=True)
        continue
    store = NiftiDatastore(folder, class_set=load_class_set())
    image = nib.load(folder + "/big.nii.gz")
    noise = np.random.default_rng(0).integers(0, 2, image.shape, dtype=np.uint8)
    for turn in itertools.count(int(start)):
        value = 1 + turn % 255
        nib.save(nib.Nifti1Image(noise * np.uint8(value), image.affine), label)
        names = [{"name": f"structure {value}", "idx": value}]
        store.save_label("big", label, "final", {"label_info": names, "replace": True})
        print(os.getpid(), turn, flush=True)
"""


def test_a_killed_server_leaves_a_complete_label_with_its_own_names(
    open_folder: Callable[[], NiftiDatastore], folder: Path, tmp_path: Path
) -> None:
    shape = (64, 64, 64)
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), AFFINE), folder / "big.nii.gz")
    noise = np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "monailabel_app")])}
    command: list[str | Path] = [sys.executable, "-W", "ignore", "-c", SAVES_FOREVER, folder, tmp_path / "l.nii.gz"]
    last = 0
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin and process.stdout
        for _ in range(8):
            process.stdin.write(f"{last + 1}\n")
            printed = process.stdout.readline().split()
            time.sleep(random.uniform(0, 0.3))
            os.kill(int(printed[0]), signal.SIGKILL)
            while printed != ["ended"]:
                last = int(printed[1])
                printed = process.stdout.readline().split()
            store = open_folder()
            assert sorted(store.list_images()) == ["a", "b", "big", "c.v1"]
            saved = _saved(store, "big")
            assert saved.max() in (1 + last % 255, 2 + last % 255)  # the last one reported, or the next
            assert (saved == noise * saved.max()).all()
            assert _names(store, "big") == [{"name": f"structure {saved.max()}", "idx": saved.max()}]
            store.save_label("a", _label(tmp_path / "small.nii.gz"), "final", LIVER)
            assert not list((folder / ".unfinished").iterdir())  # what the killed process left is removed
            store._observer.stop()
        process.stdin.close()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, class_set: ClassSet) -> None:
    for folder in (tmp_path / "mistyped", Path("/proc")):
        with pytest.raises(ValueError, match=f"The folder of studies must be writable.*not {folder}: "):
            NiftiDatastore(folder, class_set=class_set)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_images_is_opened_with_a_warning(
    tmp_path: Path, class_set: ClassSet, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(NiftiDatastore) as opener:
        assert opener(tmp_path, class_set=class_set).list_images() == []
    assert f"{tmp_path}, holds no .nii.gz or .nii image yet" in caplog.text


def test_a_pacs_that_does_not_respond_times_out(
    tmp_path: Path, class_set: ClassSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT", 0.3)
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as silent, closing(open_datastore) as opener:
        store = opener(f"http://127.0.0.1:{silent.getsockname()[1]}", class_set=class_set)
        start = time.monotonic()
        with pytest.raises(requests.Timeout):
            store.list_images()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_damaged_image_is_set_aside_until_it_changes(store: NiftiDatastore, folder: Path, strategy: str) -> None:
    sound = (folder / "a.nii.gz").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    damaged = gzip.compress(nib.Nifti1Image(noise, AFFINE).to_bytes(), compresslevel=0)
    (folder / "a.nii.gz").write_bytes(damaged[:-20] + bytes([damaged[-20] ^ 1]) + damaged[-19:])
    (folder / "b.nii").write_bytes((folder / "b.nii").read_bytes() + b"more")
    if strategy == "uncertainty":
        for image, entropy in (("a", 0.9), ("b", 0.8), ("c.v1", 0.1)):
            store.update_image_info(image, {"uncertainty": {"film": {"entropy": entropy}}})
    for _ in range(3):
        assert STRATEGIES[strategy]({}, store)["id"] == "c.v1"
    if strategy != "random":
        aside = store.status()["set_aside"]
        assert "damaged" in aside["a"] and "goes on after the voxels" in aside["b"]
        assert str(folder) not in str(aside)
    (folder / "a.nii.gz").write_bytes(sound)
    if strategy != "random":
        assert STRATEGIES[strategy]({}, store)["id"] == "a"
        assert "a" not in store.status()["set_aside"]


def test_two_annotators_are_offered_different_images(store: NiftiDatastore) -> None:
    def offer(client: str) -> str:
        image = str(STRATEGIES["first"]({"client_id": client}, store)["id"])
        record = {"first": {"ts": int(time.time()), "client_id": client}}
        store.update_image_info(image, {"strategy": record})  # as MONAI Label does
        return image

    assert [offer(client) for client in ("anna", "ben", "anna", "carla", "dora")] == ["a", "b", "a", "c.v1", "a"]
