"""Images of a command line, and names of their outputs."""

from pathlib import Path

import pytest

from custom.datasets.image_paths import list_images, output_names


def test_images_of_a_folder_are_listed_in_order(tmp_path: Path) -> None:
    for name in ("b.nii", "a.nii.gz", "C.NII.GZ", "notes.txt", ".hidden.nii", "d.nii.gz.part"):
        (tmp_path / name).touch()
    (tmp_path / "folder.nii").mkdir()
    assert [Path(image).name for image in list_images(tmp_path)] == ["C.NII.GZ", "a.nii.gz", "b.nii"]
    assert list_images(str(tmp_path / "b.nii")) == [str(tmp_path / "b.nii")]


def test_images_of_a_list(tmp_path: Path) -> None:
    """As a command line gives it; a comma in a name is no list."""
    (tmp_path / "more").mkdir()
    for name in ("a.nii", "b,c.nii", "more/d.nii", "more/a.nii.gz"):
        (tmp_path / name).touch()
    a, bc, d = (str(tmp_path / name) for name in ("a.nii", "b,c.nii", "more/d.nii"))
    for images in ([a, d], (a, d), f"[{a},{d}]", f"{a}, {d}", f"['{a}', '{d}']", [a, d, a]):
        assert list_images(images) == [a, d]
    assert list_images(bc) == [bc]
    (tmp_path / "more" / "d.nii.gz").touch()
    with pytest.raises(ValueError, match=r"d\.nii and .*d\.nii\.gz would be written to folders of one name"):
        list_images(tmp_path / "more")
    for wrong in (None, 7, [], [""], [[a]]):
        with pytest.raises(ValueError, match="--image must"):
            list_images(wrong)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("empty", FileNotFoundError, r"holds no file with one of the suffixes \.nii, "),
        ("absent.nii", FileNotFoundError, "--image"),
        ("notes.txt", ValueError, "must be a file with one of the suffixes"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, name: str, error: type[Exception], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(error, match=message):
        list_images(tmp_path / name)


def test_outputs_of_images_with_one_name_are_named_by_their_folders() -> None:
    images = ["/kits/case_0/imaging.nii.gz", "/kits/case_1/imaging.nii.gz", "/old/case_1/imaging.nii", "/old/b.nii"]
    assert output_names(images) == ["case_0_imaging", "kits_case_1_imaging", "old_case_1_imaging", "b"]
    assert output_names(images[:1]) == ["imaging"]
    assert output_names([]) == []
    assert output_names([images[0], images[1], "/old/case_0_imaging.nii"]) == [
        "kits_case_0_imaging", "case_1_imaging", "old_case_0_imaging"
    ]  # fmt: skip
