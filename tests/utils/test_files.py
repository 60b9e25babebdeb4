"""Files and folders are complete or absent."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from custom.utils.files import atomic_write, check_folders, read_safetensors, replace_folder, save_safetensors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "image.nii.gz"


def test_the_file_appears_once_it_is_complete(path: Path) -> None:
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffixes == [".nii", ".gz"]  # nibabel and others choose the format by it
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, "old"])
def test_an_error_leaves_what_was_there(path: Path, error: type[BaseException], old: str | None) -> None:
    if old is not None:
        with atomic_write(path) as temporary:
            temporary.write_text(old)
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert [file.read_text() for file in path.parent.iterdir()] == ([] if old is None else [old])


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_write(path) as temporary:
            temporary.write_text("new")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("old", [None, "old"])
def test_a_folder_replaces_another_or_leaves_it(tmp_path: Path, old: str | None) -> None:
    final, temporary = tmp_path / "final", tmp_path / "temporary"
    temporary.mkdir()
    if old is not None:
        final.mkdir()
        (final / old).touch()
    with pytest.raises(FileNotFoundError):
        replace_folder(final, temporary / "new")
    assert [file.name for file in final.glob("*")] == ([] if old is None else [old])
    (temporary / "new").mkdir()
    (temporary / "new" / "file").touch()
    replace_folder(final, temporary / "new")
    assert [file.name for file in final.iterdir()] == ["file"]


def test_safetensors_take_views_and_carry_metadata(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    save_safetensors({"a": parameter.T, "b": torch.tensor(1)}, path, metadata={"key": "value"})
    with safe_open(str(path), framework="pt") as file:
        assert file.metadata() == {"key": "value"}
        torch.testing.assert_close(file.get_tensor("a"), parameter.detach().T)
        assert file.get_tensor("b").item() == 1


def test_a_tilde_is_no_folder() -> None:
    """Inputs are found under ~; outputs in a folder of that name would be hard to find."""
    with pytest.raises(ValueError, match=r"must not begin with ~, not ~/out: .* \(--output_dir ~/out"):
        check_folders(["~/out"])


REPLACE = """
import sys
import torch
from custom.utils.files import save_safetensors

length = 0
print("ready", flush=True)
while True:
    length = (length + 7) % 200
    save_safetensors({"ones": torch.ones(1 + length)}, sys.argv[1], metadata={"format": "x" * length})
"""


def test_header_and_tensors_are_of_one_file_while_others_replace_it(tmp_path: Path) -> None:
    path = tmp_path / "ones.safetensors"
    save_safetensors({"ones": torch.ones(1)}, path, metadata={"format": ""})
    with subprocess.Popen([sys.executable, "-c", REPLACE, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout and writer.stdout.readline() == "ready\n"
            for _ in range(5000):
                tensors, header = read_safetensors(path)
                torch.testing.assert_close(tensors["ones"], torch.ones(1 + len(header["format"])))
        finally:
            writer.kill()
