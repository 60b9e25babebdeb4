"""An exported bundle as a zip. Large weights stay outside; MONAI downloads them and checks their SHA-256."""

import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from stat import S_ISLNK

from monai.bundle import ConfigParser

from custom.bundle.root import BundleError, bundle_name
from custom.utils.files import atomic_write, content_digest

#: Bytes above which a weights file stays outside the zip.
LARGE_FILE = 25_000_000

#: Most bytes, unpacked, and most files of a zip: larger files stay outside.
MOST_BYTES, MOST_FILES = 20 * LARGE_FILE, 10_000

LARGE_FILES = "large_files.yml"

LARGE_ENTRY = """\
  - path: "models/{name}"
    url: "{url}/models/{name}"
    hash_val: "{digest}"
    hash_type: "sha256"
"""


def zip_bundle(folder: Path, *, url: str | None = None) -> Path:
    """Zip an exported bundle as ``<folder>_v<version>.zip``, with its name as top folder.

    The same files give the same bytes. A file of ``models/`` above ``LARGE_FILE`` bytes stays outside;
    ``large_files.yml`` has its URL, ``<url>/models/model.pt``, and SHA-256, for ``python -m monai.bundle
    download_large_files``.

    Raises:
        FileNotFoundError: the folder is no bundle.
        ValueError: a file is large and there is no ``url``.
    """
    name = bundle_name(folder)
    version = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    large = find_large([path for path in files if path.parent.name == "models"], url)
    final = folder.parent / f"{name}_v{version}.zip"
    with atomic_write(final) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for path in files:
            if path not in large:
                _add(archive, f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        if large:
            base = str(url).rstrip("/")
            entries = [LARGE_ENTRY.format(name=path.name, url=base, digest=content_digest(path)) for path in large]
            _add(archive, f"{name}/{LARGE_FILES}", "".join(["large_files:\n", *entries]).encode())
    return final


def find_large(files: Sequence[Path], url: str | None) -> list[Path]:
    """The files that stay outside a zip; ValueError where there are some, and no ``url`` to download them from."""
    large = [path for path in files if path.stat().st_size > LARGE_FILE]
    if large and url is None:
        raise ValueError(
            f"{large[0]} has {large[0].stat().st_size / 1e6:.0f} MB, and files above {LARGE_FILE / 1e6:.0f} MB "
            "stay outside the zip: pass --url, the URL where the exported folder's files will be served, and "
            "--overwrite True if that folder exists."
        )
    return large


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980, so that the same files give the same bytes
    entry.external_attr = 0o100644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content, compresslevel=9)


def add_large_files(folder: Path, exported: Path) -> None:
    """Large files: copied from the exported folder beside the zip.

    Raises:
        BundleError: ``large_files.yml`` names one that is missing there, or that does not belong to a bundle.
    """
    for entry in large_entries(folder):
        name = entry["path"]
        if not (exported / name).is_file():
            raise BundleError(f"{LARGE_FILES}: {name} is not in {exported}: keep the exported folder beside the zip")
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(exported / name, folder / name)


def large_entries(folder: Path) -> list[dict[str, str]]:
    """The entries of a bundle's ``large_files.yml``; none without that file."""
    if not (folder / LARGE_FILES).is_file():
        return []
    content = ConfigParser.load_config_file(folder / LARGE_FILES)
    entries = content.get("large_files") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BundleError(
            f"{LARGE_FILES}: it must hold a list large_files, each entry with path, url and hash, not {content!r:.80}"
        )
    for entry in entries:
        if not re.fullmatch(r"models/[\w-][\w.-]*", str(entry.get("path"))):
            raise BundleError(f"{LARGE_FILES}: a path must be models/ and a file's name, not {entry.get('path')!r}")
    return entries


def bundle_of_zip(path: Path) -> str:
    """Name of the bundle in a zip: the file's without ``_v<version>``."""
    return re.sub(r"_v\d[\w.]*$", "", path.stem)


def check_zip(path: Path) -> None:
    """Zip: of a bundle's size, undamaged, one top folder of the bundle's name, plain files within it only."""
    try:
        with zipfile.ZipFile(path) as archive:
            names, size = archive.namelist(), sum(entry.file_size for entry in archive.infolist())
            if len(names) > MOST_FILES or size > MOST_BYTES:  # nothing is unpacked beyond the size that an entry states
                raise BundleError(
                    f"the zip would unpack to {len(names)} files of {size / 1e6:.0f} MB, and may hold at most "
                    f"{MOST_FILES} of {MOST_BYTES / 1e6:.0f} MB: larger weights stay outside ({LARGE_FILES})"
                )
            broken = archive.testzip()
            links = [entry.filename for entry in archive.infolist() if S_ISLNK(entry.external_attr >> 16)]
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{path} is no zip, or it is damaged: {error}") from error
    if broken is not None:
        raise BundleError(f"{broken} in the zip is damaged: export it again")
    tops = {name.split("/")[0] for name in names}
    if tops != {expected := bundle_of_zip(path)}:
        raise BundleError(f"the zip's one top folder must be {expected}, where MONAI looks for it, not {sorted(tops)}")
    if odd := [name for name in names if ".." in PurePosixPath(name).parts or "\\" in name or name in links]:
        raise BundleError(f"{odd[0]} in the zip leads out of its folder: export it again")
