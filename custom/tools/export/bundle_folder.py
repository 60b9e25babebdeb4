"""An exported bundle: a folder that runs without this repository."""

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

import custom
from custom.anatomy.class_set import ClassSet
from custom.anatomy.loading import load_class_set
from custom.bundle.root import bundle_name, existing_settings, own_weights
from custom.prompts.sentences import write_sentence
from custom.text.bank import SAME_MODEL, vectors_beside
from custom.text.encoders import PromptTooLongError, TextEncoderUnavailable
from custom.tools.export.model_card import write_card
from custom.tools.export.statements import NOTHING, Statements, describe, describe_own, named_data, write_pages
from custom.tools.export.tracing import write_onnx, write_torchscript
from custom.utils.errors import root_cause
from custom.utils.files import content_digest, replace_folder, save_safetensors, save_state, temporary_prefix
from custom.utils.json_format import format_json
from custom.weights.header import read_header, write_metadata
from custom.weights.io import read_weights
from custom.weights.volume import check_class_set, training_settings, volume_section

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[2]


def export_bundle(
    bundle_dir: str | Path,
    output_dir: str | Path,
    *,
    weights: str | Path | None = None,
    class_set_file: str | Path | None = None,
    statements: Statements = NOTHING,
    overwrite: bool = False,
    torchscript: bool = False,
    onnx: bool = False,
) -> Path:
    """Copy a bundle to ``<output_dir>/<its name>/``, with this package, its requirements, licence and weights.

    The folder, which is returned, appears whole or not at all. With weights come ``models/model.pt``, the same without
    the header, which tools of MONAI load, and the vectors of the canonical sentences; ``train.json`` gets the sizes of
    their network, so that ``monai.bundle.load`` builds what they fit, and ``--pretrained`` can start from them.

    Args:
        bundle_dir: a bundle of ``bundles/``.
        output_dir: where the folder goes.
        weights: by default ``custom.bundle.root.own_weights``; where it has none, a warning says so.
        class_set_file: of weights that were trained with a class set of their own: it is shipped with them.
        statements: of weights of your own: name, version and whatever their header does not say. The bundle's metadata
            and pages describe the weights in its folder ``models`` and no others.
        overwrite: replace an earlier export and whatever was trained in it.
        torchscript: add ``models/model.ts`` (``custom.tools.export.tracing``).
        onnx: add ``models/encode.onnx`` and ``models/decode.onnx``.

    Raises:
        FileNotFoundError: no such bundle or weights.
        FileExistsError: the folder is there and ``overwrite`` is False.
        ValueError: ``weights`` are no weights of this project or not of this bundle's network, or a traced network was
            requested without weights, or of a network that does not read text; ``statements`` are missing, or wrong.
    """
    bundle_dir = Path(bundle_dir).resolve()
    name = bundle_name(bundle_dir)
    source = Path(weights) if weights is not None else own_weights(bundle_dir)
    header = None if source is None else read_header(source)
    if source is not None and header is not None and not are_described(source, bundle_dir):
        statements.check(header)
        name = str(statements.name)
    elif statements.given:
        which = "has no weights" if source is None else f"describes {source} itself"
        options = " ".join(statements.given)
        raise ValueError(f"{options} describe weights of yours, and {name} {which}: pass --weights, or leave them out.")
    final = Path(output_dir).resolve() / name
    if final.exists() and not overwrite:
        raise FileExistsError(
            f"{final} exists: pass --overwrite True to replace it (weights trained there go with it; keep them with "
            "--weights), or choose another --output_dir."
        )
    if final == bundle_dir:
        raise ValueError(f"--output_dir must be another folder than {bundle_dir.parent}, the bundle's: choose dist.")
    if source is None and class_set_file is not None:
        raise ValueError(f"A class set is shipped with the weights that know it, and {name} has none: pass --weights.")
    if source is None and (torchscript or onnx):
        raise ValueError(f"A network is traced with its weights, and {name} has none here: pass --weights FILE.")
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=temporary_prefix(final.parent)) as temporary:
        folder = Path(temporary) / name
        for part in ("configs", "docs"):
            shutil.copytree(bundle_dir / part, folder / part)
        shutil.copy(bundle_dir / "LICENSE", folder)
        (folder / "requirements.txt").write_text(_requirements(), encoding="utf-8")
        shutil.copy(PACKAGE.parent / "constraints.txt", folder)
        shutil.copytree(PACKAGE, folder / "custom", ignore=shutil.ignore_patterns("__pycache__", "tools"))
        (folder / "models").mkdir()
        if source is not None:
            _add_weights(
                folder, source, class_set_file, statements, based_on=bundle_dir.name, torchscript=torchscript, onnx=onnx
            )
        (folder / "README.md").write_text(write_card(folder), encoding="utf-8")
        replace_folder(final, folder)
    if source is None:
        logger.warning("%s is exported without weights: it is untrained.", name)
    return final


def are_described(weights: Path, bundle_dir: Path) -> bool:
    """Whether weights are those that the metadata and pages of a bundle describe: its demonstration's, by content."""
    shipped = bundle_dir / "models" / "demo.safetensors"
    return shipped.is_file() and content_digest(shipped) == content_digest(weights)


def _add_weights(
    folder: Path,
    source: Path,
    class_set_file: str | Path | None,
    statements: Statements,
    *,
    based_on: str,
    torchscript: bool,
    onnx: bool,
) -> None:
    """Put weights, and whatever is made of them, into the folder of a bundle (see ``export_bundle``)."""
    configs, models = folder / "configs", folder / "models"
    weights = models / "model.safetensors"
    shutil.copyfile(source, weights)
    state, header = read_weights(weights)
    if statements.data and not named_data(header):  # what the masks of these weights then say
        header["provenance"] |= {"data": (header["provenance"].get("data") or {}) | {"description": statements.data}}
        save_safetensors(state, weights, metadata=write_metadata(header, header["provenance"]))
    save_state(state, models / "model.pt")
    volume = volume_section(header, weights)
    settings = training_settings(header)
    if class_set_file is None:
        class_set = load_class_set(volume["class_set"])
        settings["class_set_file"] = volume["class_set"]
    else:
        class_set = load_class_set(shutil.copyfile(class_set_file, configs / "class_set.json"))
        settings["class_set_file"] = "$@bundle_root + '/configs/class_set.json'"
        for name in ("evaluate", "inference"):
            _change_json(configs / f"{name}.json", {"class_set_file": settings["class_set_file"]})
    check_class_set(weights, class_set)
    shipped = {"weights": "$@bundle_root + '/models/model.safetensors'", "encoder_id": "@text_encoder"}
    settings["text_bank"] = {"_target_": "custom.text.find_vectors", **shipped, "kind": "@bank::encoder::kind"}
    _change_json(configs / "train.json", settings)
    parser = ConfigParser()
    parser.read_config(configs / "inference.json")
    parser["bundle_root"] = str(folder)
    try:
        network = parser.get_parsed_content("network_def").eval()
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"{source} holds weights of the network {header['network']!r}, which is not that of the bundle "
            f"{based_on}: export the bundle of that network. ({root_cause(error)})"
        ) from error
    _change_json(configs / "metadata.json", describe(header, class_set))
    if statements.given:
        own = describe_own(header, class_set, statements, based_on=based_on, reads_prompt=network.reads_prompt)
        metadata = json.loads((configs / "metadata.json").read_text(encoding="utf-8")) | own
        (configs / "metadata.json").write_text(format_json(metadata), encoding="utf-8")
        for name in ("train", "inference"):
            _change_json(configs / f"{name}.json", {"bundle_root::name": statements.name})
        write_pages(folder, header, statements)
    if "text_bank" in parser:
        _add_vectors(parser, class_set, volume, state["default_text"])
    if (torchscript or onnx) and not network.reads_prompt:
        raise ValueError(f"Only a network that reads text is traced in two halves, not that of {folder.name}.")
    if torchscript:
        difference = write_torchscript(network, models / "model.ts", volume["roi_size"])
        logger.info("models/model.ts predicts as the network does, to %.1g of the largest logit.", difference)
    if onnx:
        difference = write_onnx(network, models, volume["roi_size"])
        logger.info("models/*.onnx predict as the network does, to %.1g of the largest logit.", difference)


def _change_json(path: Path, values: Mapping[str, Any]) -> None:
    """Give entries that a JSON file has, by their path, other values; None leaves one as it is."""
    parser = ConfigParser(json.loads(path.read_text(encoding="utf-8")))
    for name, value in existing_settings(parser.get(), values).items():
        if value is not None:
            parser[name] = value
    path.write_text(format_json(parser.get()), encoding="utf-8")


def _add_vectors(parser: ConfigParser, class_set: ClassSet, volume: dict[str, Any], default_text: torch.Tensor) -> None:
    """Put the vectors of the canonical sentences beside the weights: of each class they know, and of each group."""
    known = {class_set.index(name) for name in volume["trained_classes"]}
    groups = {tuple(sorted(known.intersection(members))) for members in class_set.groups.values()}
    groups = {group for group in groups if 0 < len(group) <= volume["max_classes_per_prompt"]}
    sentences = sorted(groups | {(index,) for index in known})
    bank = parser.get_parsed_content("bank")
    try:
        vectors = bank([class_set.default_prompt, *(write_sentence(class_set, group) for group in sentences)])
        if torch.cosine_similarity(vectors[:1], default_text.float()).item() < SAME_MODEL:
            raise TextEncoderUnavailable("the weights belong to another model (--text_model), or do not tell theirs")
    except (TextEncoderUnavailable, PromptTooLongError) as error:
        logger.warning("No vectors of sentences are shipped: %s", error)
        return
    bank.path = vectors_beside(parser.get_parsed_content("weights"), bank.encoder_id, bank.kind)
    bank.save()
    bank.path.with_name(f"{bank.path.name}.lock").unlink(missing_ok=True)


def _requirements() -> str:
    """What an exported bundle needs, with the offline text encoder, a line each."""
    parts = (requirement.partition(";") for requirement in requires("deep-film") or [])
    lines = [name.strip() for name, _, marker in parts if not marker or "offline" in marker]
    return "\n".join([f"# custom {custom.__version__} is vendored", *lines, ""])
