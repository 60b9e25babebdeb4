"""The written data set: files in patient coordinates, kept when a call is repeated."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from custom.tools.phantoms.dataset import write_phantoms
from custom.tools.phantoms.scene import LABELS, make_phantom


def test_bad_splits() -> None:
    for splits in ({}, {"training": 0}, {"training": 2, "test": -1}):
        with pytest.raises(ValueError, match="splits must be counts of cases, at least one in all, not"):
            write_phantoms("unused", splits=splits)


def test_a_description_of_other_data_is_not_replaced(tmp_path: Path) -> None:
    small: dict[str, Any] = {"splits": {"test": 1}, "spacing": (12.0, 12.0, 12.0)}
    for mine in ('{"name": "mine", "training": []}', "[]", "{"):
        (tmp_path / "dataset.json").write_text(mine)
        with pytest.raises(ValueError, match="describes other data than phantoms, and is not replaced"):
            write_phantoms(tmp_path, **small)
        assert (tmp_path / "dataset.json").read_text() == mine
        assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]
    write_phantoms(tmp_path, **small, overwrite=True)
    write_phantoms(tmp_path, **small)
    assert json.loads((tmp_path / "dataset.json").read_text())["name"] == "phantom"


def test_written_files(tmp_path: Path) -> None:
    spacing = (12.0, 11.0, 10.0)
    splits = {"training": 1, "validation": 0, "test": 1}
    arguments: dict[str, Any] = {"seed": 3, "spacing": spacing, "splits": splits}
    seen: list[int] = []
    path = write_phantoms(tmp_path, **arguments, on_case=seen.append)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert seen == [0, 1]
    assert content["labels"]["27"] == ["liver tumor", "liver"]
    assert [len(content[name]) for name in ("training", "validation", "test")] == [1, 0, 1]
    case = make_phantom(4, spacing=spacing)
    for kind, voxels in (("image", case.image), ("label", case.label)):
        file = nib.nifti1.load(tmp_path / content["test"][0][kind])
        assert file.get_data_dtype() == voxels.dtype
        assert file.header.get_xyzt_units()[0] == "mm"
        assert nib.orientations.aff2axcodes(file.affine) == ("R", "A", "S")
        for affine, code in (file.get_sform(coded=True), file.get_qform(coded=True)):
            assert code > 0
            np.testing.assert_allclose(affine, case.affine, atol=1e-3)
        np.testing.assert_array_equal(np.asarray(file.dataobj), voxels)
    assert not list(tmp_path.rglob(".*"))

    write_phantoms(tmp_path, **arguments, classes=["liver", "spleen"])
    labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
    assert labels == {str(v): [n for n in names if n in ("liver", "spleen")] for v, names in LABELS.items()}
    assert labels["27"] == ["liver"]
    assert labels["2"] == []

    files = sorted(tmp_path.rglob("*.nii.gz"))
    times = [file.stat().st_mtime_ns for file in files]
    write_phantoms(tmp_path, **arguments)
    assert [file.stat().st_mtime_ns for file in files] == times
    files[0].unlink()
    write_phantoms(tmp_path, **arguments)
    assert files[0].exists()
    assert files[1].stat().st_mtime_ns == times[1]
    others: list[dict[str, Any]] = [{"seed": 9}, {"spacing": (9.0, 9.0, 9.0)}]
    for other in others:
        with pytest.raises(ValueError, match="choose an empty output_dir, or replace it with overwrite=True"):
            write_phantoms(tmp_path, **{**arguments, **other})
    write_phantoms(tmp_path, **{**arguments, "seed": 9}, overwrite=True)
    assert files[1].stat().st_mtime_ns != times[1]
