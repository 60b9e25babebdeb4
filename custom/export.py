"""An exported bundle: a folder that runs without this repository."""

import json
import logging
import re
import shutil
import tempfile
from importlib.metadata import requires
from pathlib import Path

import custom
from custom.files import writing_prefix
from custom.weights import read_header

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent


def export_bundle(
    bundle_dir: str | Path, output_dir: str | Path, *, weights: str | Path | None = None, overwrite: bool = False
) -> Path:
    """Copy a bundle to ``<output_dir>/<its name>/``, with this package, its requirements, licence and weights.

    The folder appears whole or not at all.

    Args:
        bundle_dir: a bundle of ``bundles/``.
        output_dir: where the folder goes.
        weights: become ``models/model.safetensors``; by default the bundle's own ``models/model.safetensors``, else its
            ``models/demo.safetensors``, else none, and a warning says so.
        overwrite: replace an earlier export and whatever was trained in it.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: no such bundle or weights.
        FileExistsError: the folder is there and ``overwrite`` is False.
        ValueError: ``weights`` are no weights of this project.
    """
    bundle_dir = Path(bundle_dir).resolve()
    name = bundle_name(bundle_dir)
    final = Path(output_dir).resolve() / name
    if final.exists() and not overwrite:
        raise FileExistsError(
            f"{final} exists: pass --overwrite True to replace it (weights trained there go with it; keep them with "
            "--weights), or choose another --output_dir."
        )
    source = Path(weights) if weights is not None else own_weights(bundle_dir)
    if source is not None:
        read_header(source)
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=writing_prefix(final.parent)) as temporary:
        folder = Path(temporary) / name
        for part in ("configs", "docs"):
            shutil.copytree(bundle_dir / part, folder / part)
        shutil.copy(bundle_dir / "LICENSE", folder)
        (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements()), encoding="utf-8")
        shutil.copytree(PACKAGE, folder / "custom", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "models").mkdir()
        if source is not None:
            shutil.copy(source, folder / "models" / "model.safetensors")
        if final.exists():
            final.rename(Path(temporary) / "replaced")
        folder.rename(final)
    if source is None:
        logger.warning("%s is exported without weights: it is untrained.", name)
    return final


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


def _requirements() -> list[str]:
    """What an exported bundle needs, with the offline text encoder."""
    lines = [f"# {custom.__name__} {custom.__version__} is vendored"]
    for requirement in requires("deep-film") or []:
        name, _, marker = requirement.partition(";")
        if not marker or "offline" in marker:
            lines.append(name.strip())
    return lines
