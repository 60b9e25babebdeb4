"""Files that lie exactly on their image, and figures that hold on any affine."""

import json
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.figure import Figure
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

import custom.outputs.result_folder
from custom.anatomy.class_set import ClassSet
from custom.datasets.image_paths import output_names
from custom.engines.requests import Request
from custom.imageio.nifti import write_label
from custom.inferers.result import Segmentation
from custom.outputs.result_folder import SaveSegmentationd, check_outputs
from custom.outputs.structures import measure
from custom.prompts.grammar import Structure
from custom.utils.files import content_digest
from tests.helpers.requests import make_request, request_of

SCHEMA = json.loads(Path(custom.outputs.result_folder.__file__).with_name("summary.schema.json").read_text())
SHAPE = (9, 11, 7)
LIVER, LIVER_TUMOR, SPLEEN = 6, 27, 1
PLACE = (
    "pixdim", "xyzt_units", "sform_code", "srow_x", "srow_y", "srow_z",
    "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
)  # fmt: skip


def affine(columns: npt.ArrayLike, origin: Sequence[float] = (-30, 12.5, 100)) -> npt.NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(columns).T
    matrix[:3, 3] = origin
    return matrix


def rotated(degrees: float) -> npt.NDArray[np.float64]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return affine((turn * [0.7, 0.8, 3]).T)


AFFINES = {
    "axis-aligned": affine(np.eye(3)),
    "LPS": affine(np.diag([-1, -1, 1])),
    "permuted": affine(np.array([[0, 0, 2], [-1, 0, 0], [0, 1.5, 0]])),
    "anisotropic": affine(np.diag([0.7, 0.7, 5])),
    "oblique": rotated(25),
    "sheared": affine(np.array([[1, 0, 0], [0, 1, 0], [0, 0.5, 2]])),
}


def masks_of(shape: Sequence[int] = SHAPE) -> dict[int, npt.NDArray[np.bool_]]:
    """A liver, and a tumor half in it."""
    liver, tumor = np.zeros(shape, bool), np.zeros(shape, bool)
    liver[1:7, 2:9, 1:6] = True
    tumor[5:8, 3:6, 2:4] = True
    return {LIVER: liver, LIVER_TUMOR: tumor}


def save_image(path: Path, matrix: npt.NDArray[np.float64], *, sform: int = 1, qform: int = 1) -> nib.Nifti1Image:
    values = np.random.RandomState(0).normal(60, 20, SHAPE).astype(np.int16)
    image = nib.Nifti1Image(values, matrix)
    image.set_sform(matrix, code=sform)
    image.set_qform(matrix, code=qform)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return nib.load(path)


def item(path: Path, masks: dict[int, npt.NDArray[np.bool_]], *structures: Structure) -> dict[Hashable, Any]:
    """What reaches the writer: the image MONAI loaded, a channel per class decoded, and the request."""
    data = Compose([LoadImaged("image", image_only=True), EnsureChannelFirstd("image")])({"image": str(path)})
    prompt = request_of(
        structures or [Structure(index) for index in masks],
        text="the liver and its tumor",
        sentences=["a computerized tomography of liver, liver tumor"],
        corrections=(("tumr", "tumor"),),
        left_out=(1,),
    )
    pred = Segmentation.of(masks, data["image"].affine.numpy())
    request = Request(str(path), prompt, output_names([path])[0], "that of the test")
    return {**data, "pred": pred, "image_sha256": content_digest(path), "request": request}


def writer(class_set: ClassSet, folder: Path, **options: Any) -> SaveSegmentationd:
    return SaveSegmentationd("pred", class_set, folder, weights="models/model.safetensors", **options)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def array(path: Path) -> npt.NDArray[np.uint8]:
    return np.asarray(nib.load(path).dataobj)


def assert_same_place(path: Path, image: nib.Nifti1Image) -> None:
    written = nib.load(path)
    assert written.shape == image.shape
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(written.affine, image.affine)
    for field in PLACE:
        np.testing.assert_array_equal(written.header[field], image.header[field], err_msg=field)


@pytest.mark.parametrize("name", AFFINES)
def test_everything_lies_on_the_image(class_set: ClassSet, tmp_path: Path, name: str) -> None:
    image = save_image(tmp_path / "ct.1.nii.gz", AFFINES[name], qform=0 if name == "sheared" else 1)
    masks = masks_of()
    writer(class_set, tmp_path / "out")(item(tmp_path / "ct.1.nii.gz", masks))
    folder = tmp_path / "out" / "ct.1"
    files = {"labels.nii.gz", "liver.nii.gz", "liver_tumor.nii.gz", "summary.json", "preview.png"}
    assert set(content(folder)) == files
    for file in files:
        if file.endswith(".nii.gz"):
            assert_same_place(folder / file, image)
    np.testing.assert_array_equal(array(folder / "liver.nii.gz"), masks[LIVER])
    np.testing.assert_array_equal(array(folder / "liver_tumor.nii.gz"), masks[LIVER_TUMOR])
    assert (masks[LIVER] & masks[LIVER_TUMOR]).any()
    merged = np.where(masks[LIVER_TUMOR], LIVER_TUMOR, np.where(masks[LIVER], LIVER, 0))
    np.testing.assert_array_equal(array(folder / "labels.nii.gz"), merged)

    summary = json.loads((folder / "summary.json").read_text())
    jsonschema.Draft7Validator(SCHEMA).validate(summary)
    np.testing.assert_allclose(summary["affine"], image.affine, atol=1e-6)
    assert summary["shape"] == list(SHAPE)
    assert summary["image"] == str(tmp_path / "ct.1.nii.gz")
    assert summary["prompt"] == {
        "text": "the liver and its tumor",
        "understood": ["liver", "liver tumor"],
        "corrections": [{"typed": "tumr", "read_as": "tumor"}],
        "left_out": ["spleen"],
        "sentences": ["a computerized tomography of liver, liver tumor"],
        "prompt_text": "canonical",
    }
    assert [row["index"] for row in summary["classes"]] == [LIVER, LIVER_TUMOR]
    assert all(summary["classes"][i]["mask"] in files for i in (0, 1))


def test_a_mask_per_structure(class_set: ClassSet, tmp_path: Path) -> None:
    """Kidney tumour within the left kidney, the right kidney without it; the left kidney is a helper only."""
    save_image(tmp_path / "ct.nii", AFFINES["LPS"])
    right, left, tumor = (np.zeros(SHAPE, bool) for _ in range(3))
    right[:4], left[5:], tumor[3:7] = True, True, True
    requested = [Structure(26, within=3), Structure(2, without=(26,))]
    writer(class_set, tmp_path / "out")(item(tmp_path / "ct.nii", {2: right, 3: left, 26: tumor}, *requested))
    folder = tmp_path / "out" / "ct"
    within, without = "kidney_tumor_in_left_kidney.nii.gz", "right_kidney_without_kidney_tumor.nii.gz"
    assert set(content(folder)) == {within, without, "labels.nii.gz", "summary.json", "preview.png"}
    np.testing.assert_array_equal(array(folder / within), tumor & left)
    np.testing.assert_array_equal(array(folder / without), right & ~tumor)
    np.testing.assert_array_equal(array(folder / "labels.nii.gz"), np.where(tumor & left, 26, 2 * (right & ~tumor)))
    summary = json.loads((folder / "summary.json").read_text())
    jsonschema.Draft7Validator(SCHEMA).validate(summary)
    titles = ["kidney tumor in left kidney", "right kidney without kidney tumor"]
    assert summary["prompt"]["understood"] == summary["found"] == [row["title"] for row in summary["classes"]] == titles
    rows = [(row["index"], row["name"], row["within"], row["without"], row["mask"]) for row in summary["classes"]]
    assert rows == [
        (26, "kidney tumor", "left kidney", [], within),
        (2, "right kidney", None, ["kidney tumor"], without),
    ]


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 0), (0, 1), (4, 2), (0, 0)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_codes_and_both_affines_are_kept(tmp_path: Path, sform: int, qform: int, suffix: str) -> None:
    image = save_image(tmp_path / f"ct{suffix}", AFFINES["anisotropic"], sform=sform, qform=qform)
    if sform and qform:  # two affines that differ, as after a registration
        image.set_qform(AFFINES["oblique"], code=qform)
        image.header.set_xyzt_units("micron", "msec")
        nib.save(image, tmp_path / f"ct{suffix}")
        image = nib.load(tmp_path / f"ct{suffix}")
        assert not np.allclose(image.get_qform(), image.get_sform())
    write_label(masks_of()[LIVER].astype(np.uint8), tmp_path / "label.nii.gz", like=image)
    assert_same_place(tmp_path / "label.nii.gz", image)
    with pytest.raises(ValueError, match=r"image's shape \(9, 11, 7\), not \(9, 11\)"):
        write_label(np.zeros(SHAPE[:2], np.uint8), tmp_path / "label.nii.gz", like=image)


@pytest.mark.parametrize("wrong", ["shape", "affine"])
def test_a_prediction_on_another_grid_is_refused(class_set: ClassSet, tmp_path: Path, wrong: str) -> None:
    save_image(tmp_path / "ct.nii", AFFINES["LPS"])
    data = item(tmp_path / "ct.nii", masks_of())
    pred = data["pred"]
    moved = {"bits": pred.bits[:, :-1]} if wrong == "shape" else {"affine": AFFINES["axis-aligned"]}
    data["pred"] = replace(pred, **moved)
    with pytest.raises(ValueError, match=r"must lie on the grid of .*ct\.nii.*Nothing was written"):
        writer(class_set, tmp_path / "out")(data)
    assert not (tmp_path / "out").exists()


def test_a_failure_midway_changes_nothing(class_set: ClassSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_image(tmp_path / "ct.nii", AFFINES["LPS"])
    masks = masks_of()
    write, out = writer(class_set, tmp_path / "out"), tmp_path / "out"

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", full)
        with pytest.raises(OSError, match="No space left"):
            write(item(tmp_path / "ct.nii", masks))
    assert list(out.iterdir()) == []

    write(item(tmp_path / "ct.nii", masks))
    before = content(out)
    assert len(before) == 5
    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", full)
        with pytest.raises(OSError, match="No space left"):
            write(item(tmp_path / "ct.nii", {LIVER: ~masks[LIVER]}))
    assert content(out) == before
    assert [entry.name for entry in out.iterdir()] == ["ct"]


def test_a_rerun_replaces_the_folder(class_set: ClassSet, tmp_path: Path) -> None:
    save_image(tmp_path / "ct.nii", AFFINES["LPS"])
    write, masks = writer(class_set, tmp_path / "out"), masks_of()
    write(item(tmp_path / "ct.nii", masks))
    write(item(tmp_path / "ct.nii", {LIVER: masks[LIVER_TUMOR]}))
    folder = tmp_path / "out" / "ct"
    assert set(content(folder)) == {"labels.nii.gz", "liver.nii.gz", "summary.json", "preview.png"}
    np.testing.assert_array_equal(array(folder / "liver.nii.gz"), masks[LIVER_TUMOR])
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["ct"]


def test_the_result_of_another_run_is_not_replaced_meanwhile(class_set: ClassSet, tmp_path: Path) -> None:
    """Two runs into one folder find it empty; the second to end must not lose what the first has written."""
    save_image(tmp_path / "ct.nii", AFFINES["LPS"])
    masks = masks_of()
    first = item(tmp_path / "ct.nii", masks)
    other = dict(first) | {"request": replace(first["request"], settings_digest="that of another run")}
    writer(class_set, tmp_path / "out")(first)
    before = content(tmp_path / "out")
    with pytest.raises(ValueError, match=r"another run has written a result there \(by other weights, .*--overwrite"):
        writer(class_set, tmp_path / "out")(other)
    assert content(tmp_path / "out") == before
    writer(class_set, tmp_path / "out")(first)
    writer(class_set, tmp_path / "out", overwrite=True)(other)
    assert content(tmp_path / "out")["ct/summary.json"] != before["ct/summary.json"]


def test_what_is_not_found_is_said(class_set: ClassSet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_image(tmp_path / "ct.nii", AFFINES["LPS"])
    masks = {SPLEEN: np.zeros(SHAPE, bool), LIVER: masks_of()[LIVER]}
    writer(class_set, tmp_path / "out")(item(tmp_path / "ct.nii", masks))
    summary = json.loads((tmp_path / "out" / "ct" / "summary.json").read_text())
    jsonschema.Draft7Validator(SCHEMA).validate(summary)
    assert (summary["found"], summary["not_found"]) == (["liver"], ["spleen"])
    spleen = summary["classes"][0]
    assert (spleen["voxels"], spleen["volume_ml"]) == (0, 0)
    assert [spleen[key] for key in ("mean_hu", "sd_hu", "bounding_box_mm")] == [None] * 3
    assert not array(tmp_path / "out" / "ct" / "spleen.nii.gz").any()
    assert "Not found in ct.nii: spleen" in caplog.text


@pytest.mark.parametrize("name", AFFINES)
def test_figures_of_a_mask(name: str) -> None:
    """Against the definition: every voxel a parallelepiped of eight corners."""
    matrix, mask = AFFINES[name], masks_of()[LIVER_TUMOR]
    image = np.random.RandomState(0).normal(60, 20, SHAPE).astype(np.float32)
    result = measure(mask, image, matrix)
    voxels = [index for index in np.ndindex(SHAPE) if mask[index]]
    corners = np.array([np.add(v, c) for v in voxels for c in product((-0.5, 0.5), repeat=3)])
    world = np.array([matrix[:3, :3] @ corner + matrix[:3, 3] for corner in corners])
    i, j, k = matrix[:3, :3].T
    values = np.array([image[index] for index in voxels], np.float64)
    assert result == {
        "voxels": len(voxels),
        "volume_ml": pytest.approx(len(voxels) * abs(np.cross(i, j) @ k) / 1000, abs=1e-4),
        "mean_hu": pytest.approx(values.sum() / len(values), abs=0.01),
        "sd_hu": pytest.approx(((values - values.mean()) ** 2).mean() ** 0.5, abs=0.01),
        "bounding_box_mm": {
            "min": pytest.approx(world.min(0).tolist(), abs=1e-3),
            "max": pytest.approx(world.max(0).tolist(), abs=1e-3),
        },
    }


def test_the_schema_is_strict_and_explains_every_field(class_set: ClassSet, tmp_path: Path) -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    objects = [SCHEMA, SCHEMA["properties"]["prompt"], SCHEMA["definitions"]["class"]]
    objects += [SCHEMA["definitions"]["class"]["properties"][key] for key in ("snomed", "bounding_box_mm")]
    for part in objects:
        assert part["additionalProperties"] is False
        assert set(part["required"]) == set(part["properties"])
        assert all(field["description"].endswith(".") for field in part["properties"].values())

    save_image(tmp_path / "ct.nii", AFFINES["LPS"])
    writer(class_set, tmp_path)(item(tmp_path / "ct.nii", masks_of()))
    text = (tmp_path / "ct" / "summary.json").read_text()
    validator = jsonschema.Draft7Validator(SCHEMA)
    for path in ((), ("prompt",), ("classes", 0), ("classes", 0, "snomed"), ("classes", 0, "bounding_box_mm")):
        for key in (None, *_at(json.loads(text), path)):
            summary = json.loads(text)
            if key is None:
                _at(summary, path)["more"] = 1
            else:
                _at(summary, path)[key] = {"neither": "text nor number"}
            assert not validator.is_valid(summary), (path, key)
    summary = json.loads(text)
    summary["classes"][0]["voxels"] = 0
    assert not validator.is_valid(summary)


def _at(value: Any, path: Sequence[str | int]) -> Any:
    for key in path:
        value = value[key]
    return value


def test_a_result_replaces_results_only(tmp_path: Path, class_set: ClassSet) -> None:
    """An image in a folder of its own name, segmented beside it, must survive."""
    image = tmp_path / "ct" / "ct.nii"
    image.parent.mkdir()
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), image)
    with pytest.raises(ValueError, match="is not an earlier result"):
        check_outputs([make_request(image)], tmp_path)
    check_outputs([make_request(image)], tmp_path / "out")
    masks = {6: np.ones((4, 4, 4), bool)}
    writer(class_set, tmp_path / "out")(item(image, masks))
    check_outputs([make_request(image)], tmp_path / "out")
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "ct.nii"
    other.write_bytes(image.read_bytes())
    with pytest.raises(
        ValueError, match=r"holds the result of .*/ct/ct.nii, which that of .*/other/ct.nii must not replace"
    ):
        check_outputs([make_request(other)], tmp_path / "out")
    (tmp_path / "out" / "ct" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not an earlier result"):
        writer(class_set, tmp_path / "out")(item(image, masks))
    assert (tmp_path / "out" / "ct" / "notes.txt").read_text() == "mine"
    assert image.is_file()
