"""The wheel holds the whole package and works without the repository; each extra installs without contradictions."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers import ROOT

#: Imports every module of the package but the two that are programs, and says where the package lies.
IMPORT_ALL = """
import importlib, pkgutil, custom
for module in pkgutil.walk_packages(custom.__path__, "custom."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(custom.__file__)
"""


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building writes into the source folder
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    (source / "custom").symlink_to(ROOT / "custom")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet")
    run(*pip, "--wheel-dir", str(folder), str(source), cwd=folder)
    return next(folder.glob("deep_film-*.whl"))


def test_it_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "custom").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == files


def test_all_of_it_imports_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(target))
    run(*pip, str(wheel), cwd=tmp_path)
    code = f"import sys; sys.path.insert(0, {str(target)!r}){IMPORT_ALL}"
    assert run(sys.executable, "-c", code, cwd=tmp_path).strip().startswith(str(target))


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", "offline", "dicom", "label", "onnx"])
def test_it_installs_into_an_empty_environment(extra: str, wheel: Path, tmp_path: Path) -> None:
    """With the tested versions: minutes and gigabytes each."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir")
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    run(*pip, wanted, "-c", str(ROOT / "constraints.txt"), cwd=tmp_path)
    assert "No broken requirements" in run(python, "-m", "pip", "check", cwd=tmp_path)
    assert run(
        python, "-c", "import custom.tools.export.bundle_folder; print(custom.__file__)", cwd=tmp_path
    ).startswith(str(tmp_path))
