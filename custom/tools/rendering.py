"""Render the bundles that differ little from another: that one's configs, with what their ``overlay.json`` changes."""

import json
from pathlib import Path
from typing import Any

from custom.utils.files import atomic_write
from custom.utils.json_format import format_json

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"

#: Longest line of an overlay, which is read on one screen, in characters.
OVERLAY_WIDTH = 160

#: Files of a base that its renderings share unchanged.
SHARED = ("LICENSE", "configs/logging.conf", "docs/data_license.txt")


def apply_overlay(config: Any, changes: dict[str, Any]) -> Any:
    """A copy of a config, the content of a JSON file, with an overlay's changes.

    Changes are values by path, keys joined by ``::``, and a list ``remove`` of paths. A key that the base does not have
    is written with a plus sign, ``+hidden_size``; it follows the one set before it, if both lie in one object, else it
    comes last.

    Raises:
        ValueError: a path that does not exist, or exists already, or a change that changes nothing.
    """
    result = json.loads(json.dumps(config))
    flat = any("::" in key for key in config)
    values = dict(changes)
    for path in values.pop("remove", []):
        parent, key = _find(result, path, flat=flat)
        if key not in parent:
            raise ValueError(f"An overlay can remove only what is there; {path} is not.")
        del parent[key]
    holder, before = None, ""
    for path, value in values.items():
        parent, key = _find(result, path.removeprefix("+"), flat=flat)
        adds = path.startswith("+")
        if adds and key in parent:
            raise ValueError(f"{path} adds what is there already: set it without the plus sign.")
        if not adds and key not in parent:
            raise ValueError(f"{path} is not in the base: to add it, write +{path}.")
        if not adds and parent[key] == value:
            raise ValueError(f"{path} is {value!r} in the base already: leave it out of the overlay.")
        parent[key] = value
        if adds and holder is parent:
            names = list(parent)
            for name in names[names.index(before) + 1 : -1]:
                parent[name] = parent.pop(name)  # puts it behind the new key
        holder, before = parent, key
    return result


def render(bundle: str) -> dict[str, str]:
    """Texts of the files of a bundle that has an ``overlay.json``, by path within the bundle.

    Where the base states its own name, the bundle's stands instead.

    Raises:
        ValueError: an overlay that does not fit its base; the message names file and path.
    """
    overlay = json.loads((BUNDLES / bundle / "overlay.json").read_text(encoding="utf-8"))
    base = overlay.pop("base", None)
    bases = sorted({path.parent.name for path in BUNDLES.glob("*/configs")} - {bundle})
    if base not in bases:
        raise ValueError(f"bundles/{bundle}/overlay.json must have a base, one of {', '.join(bases)}, not {base!r}.")
    if (BUNDLES / base / "overlay.json").is_file():
        files = render(base)
    else:
        names = [f"configs/{path.name}" for path in sorted((BUNDLES / base / "configs").glob("*.json"))]
        files = {name: (BUNDLES / base / name).read_text(encoding="utf-8") for name in (*names, *SHARED)}
    if unknown := set(overlay) - set(files):
        raise ValueError(f"bundles/{bundle}/overlay.json changes {sorted(unknown)}, which {base} does not have.")
    for name in (name for name in files if name.endswith(".json")):
        config = json.loads(files[name])
        for named in (config, config.get("bundle_root", {})):
            if named.get("name") == base:
                named["name"] = bundle
        try:
            config = apply_overlay(config, overlay.get(name, {}))
        except ValueError as error:
            raise ValueError(f"bundles/{bundle}/overlay.json, {name}: {error}") from error
        files[name] = format_json(config)
    return files


def overlaid_bundles() -> list[str]:
    """Names of the bundles that are rendered."""
    return sorted(path.parent.name for path in BUNDLES.glob("*/overlay.json"))


def render_bundles() -> None:
    """Format the configs that are written by hand, and write those of every bundle that has an overlay.json.

    Run it after a change of a config or an overlay.

    Example: python scripts/render_bundles.py
    """
    for path in written_by_hand():
        _write(path, formatted(path))
    for bundle in overlaid_bundles():
        for name, text in render(bundle).items():
            _write(BUNDLES / bundle / name, text)
        print(f"bundles/{bundle}")


def written_by_hand() -> list[Path]:
    """Overlays, and the configs of bundles that have none."""
    overlays = sorted(BUNDLES.glob("*/overlay.json"))
    rendered = {path.parent for path in overlays}
    return overlays + [path for path in sorted(BUNDLES.glob("*/configs/*.json")) if path.parents[1] not in rendered]


def formatted(path: Path) -> str:
    """The text of a JSON file as it is to be."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return format_json(content, width=OVERLAY_WIDTH) if path.name == "overlay.json" else format_json(content)


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _find(config: dict[str, Any], path: str, *, flat: bool) -> tuple[dict[str, Any], str]:
    """The object that holds the last part of a path, and that part.

    A config that overlays another at run time, such as evaluate.json, is ``flat``: its keys may be paths themselves.
    """
    if flat and path.partition("::")[0] not in config:
        return config, path
    *parents, last = path.split("::")
    holder: Any = config
    for part in parents:
        holder = holder.get(part)
        if not isinstance(holder, dict):
            raise ValueError(f"There is no {path}: {part} is missing or no object.")
    return holder, last
