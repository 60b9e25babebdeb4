"""Where a bundle lies, and what is in it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def find_bundle_root(name: str) -> str:
    """Folder of the bundle ``name``, as an absolute path.

    Looked for, in this order: the folder whose ``configs/`` holds a config that the command line names, the folder that
    holds the package ``custom`` (an exported bundle carries its own copy), the working directory, ``bundles/<name>``
    below it, and ``bundles/<name>`` beside the package (a checkout).
    A folder counts as the bundle when its ``configs/metadata.json`` carries that name.

    Raises:
        FileNotFoundError: there is none; give ``--bundle_root``.
    """
    from custom.bundle.overrides import config_files  # which imports MONAI

    here = Path.cwd()
    repository = Path(__file__).resolve().parents[2]  # or the exported bundle
    named = [file.resolve().parent.parent for file in config_files()]
    candidates = [*named, repository, here, here / "bundles" / name, repository / "bundles" / name]
    for folder in candidates:
        metadata = folder / "configs" / "metadata.json"
        if metadata.is_file() and json.loads(metadata.read_text(encoding="utf-8")).get("name") == name:
            return str(folder)
    raise FileNotFoundError(
        f"No bundle {name!r} (a folder whose configs/metadata.json carries that name) in "
        f"{', '.join(map(str, candidates))}: run from the repository's root or the bundle's folder, or pass "
        "--bundle_root."
    )


class BundleError(ValueError):
    """What is wrong with a bundle, and how to mend it."""


def bundle_name(bundle_dir: str | Path) -> str:
    """Name of the bundle in a folder, from its ``configs/metadata.json``.

    Raises:
        FileNotFoundError: the folder is no bundle.
    """
    metadata = Path(bundle_dir) / "configs" / "metadata.json"
    if not metadata.is_file():
        raise FileNotFoundError(f"{bundle_dir} is no bundle: it has no configs/metadata.json.")
    return str(json.loads(metadata.read_text(encoding="utf-8"))["name"])


def vendored_version(bundle_dir: str | Path) -> str | None:
    """Version of the package ``custom`` that an exported bundle carries; None where it carries none."""
    module = Path(bundle_dir) / "custom" / "__init__.py"
    if not module.is_file():
        return None
    found = re.search(r'^__version__ = "([^"]+)"', module.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else None


def own_weights(bundle_dir: Path) -> Path | None:
    """Weights in a bundle: ``models/model.safetensors``, else the demonstration's, else None."""
    candidates = [bundle_dir / "models" / name for name in ("model.safetensors", "demo.safetensors")]
    return next((path for path in candidates if path.is_file()), None)


def existing_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``settings``, by path ("network_def::variant"), that a config has."""

    def exists(path: str) -> bool:
        part: Any = config
        for key in path.split("::"):
            if not isinstance(part, Mapping) or key not in part:
                return False
            part = part[key]
        return True

    return {path: value for path, value in settings.items() if exists(path)}
