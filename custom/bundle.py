"""Where a bundle lies on disk."""

import json
from pathlib import Path


def find_bundle_root(name: str) -> str:
    """Folder of the bundle ``name``, as an absolute path.

    Looked for, in this order: the working directory itself, ``bundles/<name>`` below it, then the same two beside the
    installed package ``custom`` (an exported bundle carries its own copy; a checkout holds ``bundles/``).
    A folder counts as the bundle when its ``configs/metadata.json`` carries that name.

    Raises:
        FileNotFoundError: there is none; give ``--bundle_root``.
    """
    here = Path.cwd()
    house = Path(__file__).resolve().parent.parent
    candidates = [here, here / "bundles" / name, house, house / "bundles" / name]
    for folder in candidates:
        metadata = folder / "configs" / "metadata.json"
        if metadata.is_file() and json.loads(metadata.read_text(encoding="utf-8")).get("name") == name:
            return str(folder)
    raise FileNotFoundError(
        f"No bundle {name!r} (a folder whose configs/metadata.json carries that name) in "
        f"{', '.join(map(str, candidates))}: run from the repository's root or the bundle's folder, or pass "
        "--bundle_root."
    )
