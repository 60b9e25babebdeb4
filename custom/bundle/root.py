"""Where a bundle lies, and what is in it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from custom.bundle.overrides import config_files

#: Most bytes of a JSON config.
MOST_CONFIG_BYTES = 1_000_000


def find_bundle_root(name: str) -> str:
    """Folder of the bundle ``name``, as an absolute path; FileNotFoundError where there is none.

    Looked for, in this order: the folder whose ``configs/`` holds a config that the command line names, the folder that
    holds the package ``custom`` (an exported bundle carries its own copy), the working directory, ``bundles/<name>``
    below it, and ``bundles/<name>`` beside the package (a checkout). ``configs/metadata.json`` has the bundle's name.
    """
    here = Path.cwd()
    repository = Path(__file__).resolve().parents[2]  # or the exported bundle
    candidates = [file.resolve().parent.parent for file in config_files()]
    candidates += [repository, here, here / "bundles" / name, repository / "bundles" / name]
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
    """Name of the bundle in a folder, from its ``configs/metadata.json``; FileNotFoundError where there is none."""
    metadata = Path(bundle_dir) / "configs" / "metadata.json"
    if not metadata.is_file():
        raise FileNotFoundError(f"{bundle_dir} is no bundle: it has no configs/metadata.json.")
    return str(json.loads(metadata.read_text(encoding="utf-8"))["name"])


def check_configs(bundle_dir: str | Path) -> None:
    """Read a bundle's JSON configs as data, before MONAI evaluates an expression of any.

    Raises:
        BundleError: one is large, or no JSON object.
    """
    for path in sorted((Path(bundle_dir) / "configs").glob("*.json")):
        name = f"configs/{path.name}"
        if (size := path.stat().st_size) > MOST_CONFIG_BYTES:
            raise BundleError(f"{name} has {size / 1e6:.1f} MB; a config has at most {MOST_CONFIG_BYTES / 1e6:.0f} MB")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{name} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise BundleError(f"{name} must hold an object {{...}}, not {content!r:.60}")


def source_bundle(bundle_dir: str | Path) -> str:
    """Name of the repository's bundle of which an exported one was made."""
    metadata = json.loads((Path(bundle_dir) / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return str(metadata.get("based_on", metadata["name"]))


def vendored_version(bundle_dir: str | Path) -> str | None:
    """Version of the package ``custom`` that an exported bundle carries; None where it carries none."""
    module = Path(bundle_dir) / "custom" / "__init__.py"
    text = module.read_text(encoding="utf-8") if module.is_file() else ""
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else None


def own_weights(bundle_dir: Path) -> Path | None:
    """Weights in a bundle: ``models/model.safetensors``, else the demonstration's, else None."""
    candidates = [bundle_dir / "models" / name for name in ("model.safetensors", "demo.safetensors")]
    return next((path for path in candidates if path.is_file()), None)


def existing_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``settings``, by path ("network_def::variant"), that a config has."""
    parser = ConfigParser(dict(config))
    return {path: value for path, value in settings.items() if path in parser}
