"""The exported bundles that the app serves; missing ones are exported from the repository."""

import logging
from pathlib import Path

import torch
from monai.bundle import ConfigParser

import custom
from custom.bundle.root import bundle_name, check_configs, own_weights, source_bundle, vendored_version
from custom.text.encoders import create_text_encoder
from custom.tools.export.bundle_folder import are_described, export_bundle
from custom.tools.export.statements import Statements
from custom.weights.header import read_header, run_provenance
from custom.weights.io import save_weights

logger = logging.getLogger(__name__)

#: The bundles of the repository.
SOURCES = Path(__file__).resolve().parents[2] / "bundles"

#: Randomly initialised weights of a bundle that was never trained, so that it can be served and trained.
UNTRAINED = "untrained.safetensors"


def find_bundles(names: str, model_dir: Path, *, text_encoder: str) -> dict[str, Path]:
    """Folders of the bundles to serve, by name.

    A bundle that ``model_dir`` lacks is exported there from the repository. One without weights gets an untrained
    network, with a warning.

    Args:
        names: separated by commas.
        model_dir: the app's folder ``model``.
        text_encoder: "minilm" or "clip", for a bundle without weights.

    Raises:
        ValueError: a bundle that is in neither folder, or was exported by another version.
    """
    folders = {name: model_dir / name for name in map(str.strip, names.split(",")) if name}
    if not folders:
        raise ValueError(f"--conf models must name a bundle, such as film_swinunetr, not {names!r:.80}.")
    for name, folder in folders.items():
        if not folder.is_dir():
            _export(name, model_dir)
        _check(folder, name)
        if not (weights := folder / "models" / "model.safetensors").is_file():
            message = "%s has no weights: it is UNTRAINED and its output is noise. Put weights into %s, or train it."
            logger.warning(message, name, weights)
            _initialise(folder, text_encoder)
    return folders


def weights_path(folder: Path) -> Path:
    """The weights of a served bundle."""
    trained = folder / "models" / "model.safetensors"
    return trained if trained.is_file() else folder / "models" / UNTRAINED


def _export(name: str, model_dir: Path) -> None:
    known = sorted(path.parents[1].name for path in SOURCES.glob("*/configs/metadata.json"))
    if name not in known:
        raise ValueError(
            f"--conf models must name bundles in {model_dir} or among {', '.join(known) or 'none here'}, not {name!r}: "
            "export it with scripts/export_bundle.py."
        )
    logger.warning("%s is not in %s yet: exporting it from %s.", name, model_dir, SOURCES / name)
    weights = own_weights(SOURCES / name)
    described = weights is None or are_described(weights, SOURCES / name)
    export_bundle(SOURCES / name, model_dir, statements=Statements() if described else Statements.unstated(name))


def _check(folder: Path, name: str) -> None:
    check_configs(folder)
    if bundle_name(folder) != name:
        raise ValueError(f"The folder {folder} holds the bundle {bundle_name(folder)!r}: rename one.")
    if (version := vendored_version(folder)) != custom.__version__:
        raise ValueError(
            f"{folder} was exported by deep-film {version}, and this app runs {custom.__version__}: one process cannot "
            f"hold both. Export it again: scripts/export_bundle.py bundles/{source_bundle(folder)} --output_dir "
            f"{folder.parent} --overwrite True --weights {weights_path(folder)}"
        )


def _initialise(folder: Path, text_encoder: str) -> None:
    """Give a bundle an untrained network of its config's sizes, the same one for every call with a text encoder."""
    path = folder / "models" / UNTRAINED
    if path.is_file() and read_header(path)["volume"]["text_encoder"] in (text_encoder, None):
        return
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    parser["bundle_root"] = str(folder)
    parser["trained::trained_classes"] = list(parser.get_parsed_content("class_set").names)
    if "text_dim" in parser["trained"]:
        parser["trained::text_encoder"] = text_encoder
        parser["trained::text_dim"] = create_text_encoder(text_encoder).dimension
    parser.parse()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = parser.get_parsed_content("network_def")
    header = parser.get_parsed_content("header")
    save_weights(network, path, header=header, provenance=run_provenance() | {"trained": False})
