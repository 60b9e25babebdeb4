"""Checks that an exported bundle meets the bundle specification and the model zoo's rules, and works by itself."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import verify_metadata
from packaging.requirements import InvalidRequirement, Requirement

from custom.bundle.root import BundleError, check_configs
from custom.text.bank import SAME_MODEL, PromptBank
from custom.text.encoders import create_text_encoder
from custom.tools.export.archive import LARGE_FILES, large_entries
from custom.tools.phantoms.dataset import write_phantoms
from custom.utils.files import content_digest
from custom.weights.header import read_header
from custom.weights.io import differing_tensors, read_weights

Argument = str | Path

SCHEMA = Path(__file__).with_name("metadata_schema.json")

#: What every exported bundle holds.
REQUIRED_FILES = (
    *("LICENSE", "README.md", "requirements.txt", "constraints.txt", "custom/__init__.py"),
    *("docs/README.md", "docs/data_license.txt", "configs/logging.conf"),
    *("configs/metadata.json", "configs/train.json", "configs/evaluate.json", "configs/inference.json"),
)

#: Loads a bundle's network as other programs do, and saves an image with its logits. MONAI would ignore what does not
#: fit; the strict loading does not.
LOAD = """
import json, sys, torch, monai.bundle
name, folder, output = sys.argv[1:]
network = monai.bundle.load(name, bundle_dir=folder).eval()
state = torch.load(f"{folder}/{name}/models/model.pt", weights_only=True)
network.load_state_dict(state, strict=True)
with open(f"{folder}/{name}/configs/metadata.json", encoding="utf-8") as file:
    shape = json.load(file)["network_data_format"]["inputs"]["image"]["spatial_shape"]
image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    torch.save((image, network(image.to(next(network.parameters()).device)).cpu()), output)
"""

#: Ends with the name of the config whose workflow lacks properties that MONAI requires.
PROPERTIES = """
import sys
from monai.bundle import ConfigWorkflow
folder, data, output = sys.argv[1:]
for kind, config, settings in (
    ("infer", "inference", {"image": f"{data}/images/phantom_0000.nii.gz"}),
    ("train", "train", {"dataset_dir": data, "ckpt_dir": f"{output}/models"}),
):
    settings |= {"bundle_root": folder, "output_dir": output, "logging_file": False, "check_intensity": False}
    workflow = ConfigWorkflow(config_file=f"{folder}/configs/{config}.json", workflow_type=kind, **settings)
    workflow.initialize()
    if missing := workflow.check_properties():
        sys.exit(f"configs/{config}.json lacks {', '.join(missing)}, which MONAI's check_properties requires")
"""


class Finding(NamedTuple):
    """A check, in words, and the fault that it found, or None."""

    check: str
    fault: str | None


def verify_bundle(folder: str | Path) -> Iterator[Finding | str]:
    """Check an exported bundle in its unpacked folder; yields the finding of each check as it ends.

    The files are read as data first. Where they have no fault the bundle's code runs, in processes of its own, with its
    own package; before that a text says so. Nothing is written to the folder.
    """
    faults = 0
    for check in READING:
        yield (found := find(check, Path(folder).resolve()))
        faults += found.fault is not None
    if faults:
        yield "The code of this bundle was not run, because its files have faults."
        return
    yield "The following checks run the code of this bundle, with your rights."
    for check in RUNNING:
        yield find(check, Path(folder).resolve())


def find(check: Callable[..., None], *arguments: Path) -> Finding:
    """Run one check, which raises where there is a fault; its name is the first line of its docstring."""
    fault = None
    try:
        check(*arguments)
    except Exception as error:  # a check that cannot be completed is a fault too
        fault = str(error) if isinstance(error, BundleError) else f"{type(error).__name__}: {error}"
    return Finding(str(check.__doc__).splitlines()[0].removesuffix("."), fault)


def _files(folder: Path) -> None:
    """Files: complete, plain files only, no pickles."""
    if missing := [name for name in REQUIRED_FILES if not (folder / name).is_file()]:
        raise BundleError(f"{', '.join(missing)} missing: export the bundle again (scripts/export_bundle.py)")
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_symlink():
            raise BundleError(f"{name} is a link, which a zip cannot hold: put the file in its place")
        if path.suffix in (".pkl", ".pickle"):
            raise BundleError(f"{name} is a pickle, which can run code when it is read: leave it out")


def _configs(folder: Path) -> None:
    """Configs: JSON objects of a config's size, read as data."""
    check_configs(folder)


def _metadata(folder: Path) -> None:
    """Metadata: valid by the schema, version in the changelog, name of the folder."""
    file = "configs/metadata.json"
    schema = {"filepath": str(SCHEMA), "hash_val": content_digest(SCHEMA), "hash_type": "sha256"}
    try:
        verify_metadata(meta_file=str(folder / file), **schema)
    except ValueError as error:
        raise BundleError(f"{file}: {str(error).splitlines()[0]}") from error
    metadata = _metadata_of(folder)
    if metadata["version"] not in metadata["changelog"]:
        raise BundleError(
            f"{file}: version {metadata['version']} is not in the changelog, which has "
            f"{', '.join(metadata['changelog'])}: add an entry"
        )
    if metadata["name"] != folder.name:
        raise BundleError(f"{file}: name is {metadata['name']!r} and the folder {folder.name!r}: rename one")


def _requirements(folder: Path) -> None:
    """Requirements: readable by pip."""
    for number, line in enumerate((folder / "requirements.txt").read_text(encoding="utf-8").splitlines(), start=1):
        try:
            if text := line.partition("#")[0].strip():
                Requirement(text)
        except InvalidRequirement as error:
            raise BundleError(f"requirements.txt, line {number}: {line!r} is no requirement ({error})") from error


def _large_files(folder: Path) -> None:
    """Large files: each with URL and SHA-256, present, and of that SHA-256."""
    for entry in large_entries(folder):
        name = entry["path"]
        if entry.get("hash_type") != "sha256" or not re.fullmatch("[0-9a-f]{64}", str(entry.get("hash_val"))):
            raise BundleError(f"{LARGE_FILES}: {name} has no SHA-256, without which a download cannot be checked")
        if not str(entry.get("url")).startswith(("https://", "http://127.0.0.1")):
            raise BundleError(f"{LARGE_FILES}: {name} must have an https URL, not {entry.get('url')!r}")
        if not (folder / name).is_file():
            raise BundleError(
                f"{name} missing: fetch it: python -m monai.bundle download_large_files --bundle_path {folder}"
            )
        if content_digest(folder / name) != entry["hash_val"]:
            raise BundleError(f"{LARGE_FILES}: {name} is another file than the exported one: fetch it again")


def _weights(folder: Path) -> None:
    """Weights: readable without running code, finite, the same in both files, with the classes of the metadata."""
    path = folder / "models" / "model.safetensors"
    if not path.is_file():
        raise BundleError("models/model.safetensors missing: verification needs weights; export it with --weights")
    state, header = read_weights(path)
    if unfit := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise BundleError(f"models/model.safetensors holds NaN or infinity in {unfit[0]}: train anew")
    channels = _metadata_of(folder)["network_data_format"]["outputs"]["pred"].get("channel_def", {})
    for index, name in enumerate(header["volume"]["classes"]):
        if (described := channels.get(str(index))) != name:
            raise BundleError(
                f"metadata.json: channel {index} is {name!r} in the weights and {described!r} in channel_def"
            )
    try:
        other = torch.load(folder / "models" / "model.pt", weights_only=True)
    except FileNotFoundError:
        raise BundleError("models/model.pt missing: MONAI's tools load it; export again") from None
    except Exception as error:
        raise BundleError(f"models/model.pt cannot be read as plain weights: {str(error).splitlines()[0]}") from error
    if differing := differing_tensors(state, other):
        raise BundleError(f"models/model.pt differs from model.safetensors, first in {differing[0]}: export again")


def _vectors(folder: Path) -> None:
    """Vectors of sentences: made by the weights' text encoder."""
    volume = read_header(folder / "models" / "model.safetensors")["volume"]
    for path in (folder / "models").glob("prompts_*.safetensors"):
        name, bank = f"models/{path.name}", PromptBank(path)
        if (bank.encoder_id, bank.kind) != (volume["text_encoder"], volume["text_kind"]):
            raise BundleError(f"{name} is of encoder {bank.encoder_id}, {bank.kind}, not of the weights': export again")
        encoder = create_text_encoder(bank.encoder_id, kind=bank.kind)
        alike = torch.cosine_similarity(bank(bank.prompts), encoder(bank.prompts))
        if alike[worst := int(alike.argmin())] < SAME_MODEL:
            raise BundleError(f"{name} holds another vector of {bank.prompts[worst]!r} than its encoder: export again")


def _network(folder: Path) -> None:
    """Network: input and output as in the metadata (verify_net_in_out)."""
    _run_monai(folder, "verify_net_in_out")


def _load(folder: Path) -> None:
    """Loading: monai.bundle.load builds the network of the weights."""
    _, logits = loaded_logits(folder)
    if not logits.isfinite().all():
        raise BundleError("the logits of the loaded network hold NaN or infinity")


def _torchscript(folder: Path) -> None:
    """TorchScript: the network that ckpt_export makes gives the same logits."""
    image, expected = loaded_logits(folder)
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        script = Path(temporary) / "model.ts"
        files = ("--ckpt_file", folder / "models" / "model.pt", "--filepath", script)
        _run_monai(folder, "ckpt_export", *files, "--use_trace", "True", "--input_shape", str(list(image.shape)))
        found = torch.jit.load(str(script), map_location="cpu")(image)  # type: ignore[no-untyped-call]
    if not torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max())):
        raise BundleError(f"ckpt_export's network differs by {float((found - expected).abs().max()):.2g} in its logits")


def _properties(folder: Path) -> None:
    """Properties: the workflows have those that MONAI requires (check_properties)."""
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        file = write_phantoms(data, seed=0, spacing=(12.0,) * 3, splits={"training": 1, "validation": 1, "test": 1})
        content = json.loads(file.read_text(encoding="utf-8"))
        known = read_header(folder / "models" / "model.safetensors")["volume"]["trained_classes"]
        content["labels"] = {value: [] for value in content["labels"]} | {next(iter(content["labels"])): known[0]}
        file.write_text(json.dumps(content), encoding="utf-8")  # of classes that the weights know, whatever is drawn
        _run_python(folder, "-", folder, data, Path(temporary) / "out", code=PROPERTIES)


#: Checks of the files, in their order, then those that run the bundle's code. To add one: a function of the folder that
#: raises BundleError, named by its docstring.
READING: tuple[Callable[[Path], None], ...] = (
    *(_files, _configs, _metadata, _requirements, _large_files, _weights, _vectors),
)
RUNNING: tuple[Callable[[Path], None], ...] = (_network, _load, _torchscript, _properties)


def _metadata_of(folder: Path) -> Any:
    return json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))


def run(command: Sequence[Argument], cwd: Argument, environment: Mapping[str, str], *, code: str | None = None) -> None:
    """Run a command with ``code`` as its input; the last line of its errors becomes the fault."""
    done = subprocess.run(command, cwd=cwd, env=environment, input=code, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise BundleError(f"{' '.join(map(str, command[:6]))} ... ended with {done.returncode}: {last}")


def _run_python(folder: Path, *arguments: Argument, code: str | None = None, python: Argument = sys.executable) -> None:
    """Run an interpreter in an empty folder with the package of the bundle in ``folder``."""
    own = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
    with tempfile.TemporaryDirectory() as elsewhere:
        run([python, *arguments], elsewhere, os.environ | own, code=code)


def _run_monai(folder: Path, command: str, *arguments: Argument) -> None:
    """Run a command of ``monai.bundle`` on the network of a bundle's inference config."""
    configs = ("--meta_file", folder / "configs" / "metadata.json", "--config_file", folder / "configs/inference.json")
    line = (command, "--net_id", "network_def", "--bundle_root", folder, *configs, *arguments)
    _run_python(folder, "-m", "monai.bundle", *line)


def loaded_logits(folder: Path, *, python: Argument = sys.executable) -> tuple[torch.Tensor, torch.Tensor]:
    """An image of random numbers, of the metadata's shape, and its logits by the network of ``monai.bundle.load``."""
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "logits.pt"
        _run_python(folder, "-", folder.name, folder.parent, output, code=LOAD, python=python)
        image, logits = torch.load(output, weights_only=True)
    return image, logits
