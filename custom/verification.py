"""Whether an exported bundle is what the bundle specification and the model zoo ask for, and works by itself."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser, verify_metadata
from packaging.requirements import InvalidRequirement, Requirement

from custom.files import content_digest
from custom.phantom_dataset import write_phantoms
from custom.text import PromptBank, create_text_encoder
from custom.text.bank import SAME_MODEL
from custom.weights import read_header, read_weights

SCHEMA = Path(__file__).with_name("metadata_schema.json")

#: What every exported bundle holds.
REQUIRED_FILES = (
    *(
        "LICENSE",
        "README.md",
        "requirements.txt",
        "constraints.txt",
        "docs/README.md",
        "docs/data_license.txt",
        "custom/__init__.py",
    ),
    *("configs/metadata.json", "configs/train.json", "configs/evaluate.json", "configs/inference.json"),
    "configs/logging.conf",
)

LARGE_FILES = "large_files.yml"

#: Asks MONAI which properties of a workflow are missing: one per line.
PROPERTIES = """
import sys
from monai.bundle import ConfigWorkflow
folder, kind, config, *overrides = sys.argv[1:]
workflow = ConfigWorkflow(
    config_file=f"{folder}/configs/{config}.json", workflow_type=kind, logging_file=False,
    **dict(override.split("=", 1) for override in overrides),
)
workflow.initialize()
print("MISSING", *workflow.check_properties())
"""

#: Loads a bundle's network as other programs do, and answers one image; strict, for MONAI leaves out what does not fit.
LOAD = """
import sys, torch, monai.bundle
name, folder, shape, output = sys.argv[1:]
network = monai.bundle.load(name, bundle_dir=folder).eval()
state = torch.load(f"{folder}/{name}/models/model.pt", weights_only=True)
network.load_state_dict(state, strict=True)
image = torch.rand(1, 1, *map(int, shape.split(",")), generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    torch.save(network(image.to(next(network.parameters()).device)).cpu(), output)
"""


class Finding(NamedTuple):
    """What one check found."""

    check: str
    fault: str | None


class Fault(ValueError):
    """What is wrong with a bundle, and how to mend it."""


def verify_bundle(folder: str | Path) -> Iterator[Finding]:
    """Check an exported bundle; each check is yielded as it ends, with the fault that it found or None.

    Nothing is written to the folder, and what is run of it runs in processes of its own, with its own package.

    Args:
        folder: the unpacked bundle.
    """
    folder = Path(folder).resolve()
    for check in CHECKS:
        fault = None
        try:
            check(folder)
        except Exception as error:  # a check that cannot even be done has found a fault
            fault = str(error) if isinstance(error, Fault) else f"{type(error).__name__}: {error}"
        yield Finding(str(check.__doc__).splitlines()[0].removesuffix("."), fault)


def verify_zip(path: str | Path) -> Finding:
    """Whether a zip unpacks into one folder, that of its bundle, and brings nothing that is no plain file."""
    path = Path(path)
    fault = None
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            names = [entry.filename for entry in archive.infolist()]
            links = [e.filename for e in archive.infolist() if e.external_attr >> 16 & 0o170000 == 0o120000]
        tops = {name.split("/")[0] for name in names}
        expected = re.sub(r"_v[0-9][^_]*$", "", path.stem)
        if broken is not None:
            fault = f"{broken} in the zip is damaged: export it again"
        elif tops != {expected}:
            fault = f"the zip's one top folder must be {expected}, as MONAI finds it by name, not {sorted(tops)}"
        elif odd := [n for n in names if ".." in PurePosixPath(n).parts or "\\" in n or n in links]:
            fault = f"{odd[0]} in the zip leads out of its folder: export it again"
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        fault = f"{path} is no zip, or it is damaged: {error}"
    return Finding("zip: one top folder, whole", fault)


def add_large_files(folder: Path, exported: Path) -> None:
    """Put the files that a zip left out for their size into its unpacked folder, from the exported one.

    Raises:
        Fault: ``large_files.yml`` names one that is not there, or that does not belong to a bundle.
    """
    for entry in _large_entries(folder):
        source, target = exported / entry["path"], folder / entry["path"]
        if not source.is_file():
            raise Fault(f"{LARGE_FILES}: {entry['path']} is not in {exported}: keep the exported folder beside the zip")
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)


def _large_entries(folder: Path) -> list[dict[str, str]]:
    """What ``large_files.yml`` of a bundle lists; nothing where there is none."""
    path = folder / LARGE_FILES
    entries: list[dict[str, str]] = ConfigParser.load_config_file(path)["large_files"] if path.is_file() else []
    for entry in entries:
        if not re.fullmatch(r"models/[\w-][\w.-]*", str(entry.get("path"))):
            raise Fault(f"{LARGE_FILES}: a path must be models/ and a file's name, not {entry.get('path')!r}")
    return entries


def _files(folder: Path) -> None:
    """Files: all that a bundle needs, and nothing but plain files."""
    if missing := [name for name in REQUIRED_FILES if not (folder / name).is_file()]:
        raise Fault(f"{', '.join(missing)} missing: export the bundle again (scripts/export_bundle.py)")
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise Fault(f"{path.relative_to(folder)} is a link, which a zip does not carry: put the file in its place")
        if path.suffix in (".pkl", ".pickle"):
            raise Fault(f"{path.relative_to(folder)} is a pickle, which can run code when it is read: leave it out")


def _metadata(folder: Path) -> None:
    """Metadata: fits the schema, and its version is in the changelog."""
    path = folder / "configs" / "metadata.json"
    try:
        verify_metadata(meta_file=str(path), filepath=str(SCHEMA), hash_val=content_digest(SCHEMA), hash_type="sha256")
    except ValueError as error:
        raise Fault(f"configs/metadata.json: {str(error).splitlines()[0]}") from error
    metadata = _metadata_of(folder)
    if metadata["version"] not in metadata["changelog"]:
        raise Fault(
            f"configs/metadata.json: version {metadata['version']} is not in the changelog, which knows "
            f"{', '.join(metadata['changelog'])}: add what is new in it"
        )
    if metadata["name"] != folder.name:
        raise Fault(f"configs/metadata.json: name is {metadata['name']!r} and the folder {folder.name!r}: rename one")


def _requirements(folder: Path) -> None:
    """Requirements: a list that pip can read."""
    for number, line in enumerate((folder / "requirements.txt").read_text(encoding="utf-8").splitlines(), start=1):
        if (text := line.partition("#")[0].strip()) != "":
            try:
                Requirement(text)
            except InvalidRequirement as error:
                raise Fault(f"requirements.txt, line {number}: {line!r} is no requirement ({error})") from error


def _large_files(folder: Path) -> None:
    """Large files: each with an address and its SHA-256, and what is here is they."""
    for entry in _large_entries(folder):
        name = entry["path"]
        if entry.get("hash_type") != "sha256" or not re.fullmatch("[0-9a-f]{64}", str(entry.get("hash_val"))):
            raise Fault(f"{LARGE_FILES}: {name} has no SHA-256, so nobody can tell whether it came whole")
        if not str(entry.get("url")).startswith(("https://", "http://127.0.0.1")):
            raise Fault(f"{LARGE_FILES}: {name} must have an address of https, not {entry.get('url')!r}")
        if not (folder / name).is_file():
            raise Fault(f"{name} missing: fetch it: python -m monai.bundle download_large_files --bundle_path {folder}")
        if content_digest(folder / name) != entry["hash_val"]:
            raise Fault(f"{LARGE_FILES}: {name} is another file than was exported: fetch it again")


def _weights(folder: Path) -> None:
    """Weights: readable without running code, finite, the same in both files, of the metadata's classes."""
    path = folder / "models" / "model.safetensors"
    if not path.is_file():
        raise Fault(
            "models/model.safetensors missing: only a bundle with weights can be verified; export it with --weights"
        )
    state, _ = read_weights(path)
    if unfit := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise Fault(f"models/model.safetensors holds NaN or infinity in {unfit[0]}: train anew")
    classes = read_header(path)["classes"]
    channels = _metadata_of(folder)["network_data_format"]["outputs"]["pred"].get("channel_def", {})
    for index, name in enumerate(classes):
        if (told := channels.get(str(index))) != name:
            raise Fault(f"metadata.json: channel {index} is {name!r} in the weights and {told!r} in channel_def")
    try:
        other = torch.load(folder / "models" / "model.pt", weights_only=True)
    except FileNotFoundError:
        raise Fault("models/model.pt missing: MONAI's tools load it; export again") from None
    except Exception as error:
        raise Fault(f"models/model.pt cannot be read as plain weights: {str(error).splitlines()[0]}") from error
    if differing := [n for n in {**state, **other} if n not in state or n not in other or not state[n].equal(other[n])]:
        raise Fault(f"models/model.pt differs from model.safetensors, first in {sorted(differing)[0]}: export again")


def _vectors(folder: Path) -> None:
    """Vectors of sentences: those of the weights' text encoder."""
    header = read_header(folder / "models" / "model.safetensors")
    for path in (folder / "models").glob("prompts_*.safetensors"):
        bank = PromptBank(path)
        if (bank.encoder_id, bank.kind) != (header["text_encoder"], header["text_kind"]):
            raise Fault(
                f"models/{path.name} is of encoder {bank.encoder_id}, {bank.kind}, not of the weights': export again"
            )
        encoder = create_text_encoder(bank.encoder_id, kind=bank.kind)
        alike = torch.cosine_similarity(bank(bank.prompts), encoder(bank.prompts))
        if alike[worst := int(alike.argmin())] < SAME_MODEL:
            raise Fault(
                f"models/{path.name} holds another vector of {bank.prompts[worst]!r} than its encoder: export again"
            )


def _network(folder: Path) -> None:
    """Network: takes and gives what the metadata say (verify_net_in_out)."""
    _monai(folder, "verify_net_in_out", "--net_id", "network_def")


def _torchscript(folder: Path) -> None:
    """TorchScript: ckpt_export makes a network that answers alike."""
    shape = _input_shape(folder)
    with tempfile.TemporaryDirectory() as temporary:
        script = Path(temporary) / "model.ts"
        _monai(
            *(folder, "ckpt_export", "--net_id", "network_def", "--filepath", str(script)),
            *("--ckpt_file", str(folder / "models" / "model.pt"), "--use_trace", "True"),
            *("--input_shape", str([1, 1, *shape])),
        )
        expected = loaded_answer(folder, Path(temporary) / "answer.pt")
        image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            found = torch.jit.load(str(script), map_location="cpu")(image)  # type: ignore[no-untyped-call]
        if not torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max())):
            raise Fault(f"ckpt_export's network differs by {float((found - expected).abs().max()):.2g} in its logits")


def _load(folder: Path) -> None:
    """Loading: monai.bundle.load builds the network of the weights."""
    with tempfile.TemporaryDirectory() as temporary:
        answer = loaded_answer(folder, Path(temporary) / "answer.pt")
    if not answer.isfinite().all():
        raise Fault("the loaded network answers NaN or infinity")


def _properties(folder: Path) -> None:
    """Properties: the workflows have what programs ask of them (check_properties)."""
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        write_phantoms(data, seed=0, spacing=(12.0, 12.0, 12.0), splits={"training": 1, "validation": 1, "test": 1})
        output = f"output_dir={temporary}/out"
        for kind, config, *overrides in (
            ("infer", "inference", f"image={data / 'images' / 'phantom_0000.nii.gz'}", output),
            ("train", "train", f"dataset_dir={data}", output, f"ckpt_dir={temporary}/models"),
        ):
            told = _python(folder, "-c", PROPERTIES, str(folder), kind, config, f"bundle_root={folder}", *overrides)
            found = next(line.split()[1:] for line in reversed(told.splitlines()) if line.startswith("MISSING"))
            if found:
                raise Fault(f"configs/{config}.json lacks {', '.join(found)}, which MONAI's check_properties asks for")


#: In the order in which they are done; the first line of each one's documentation is what users read.
CHECKS: tuple[Callable[[Path], None], ...] = (
    *(_files, _metadata, _requirements, _large_files, _weights, _vectors),
    *(_network, _load, _torchscript, _properties),
)


def own_environment(folder: Path) -> dict[str, str]:
    """The environment in which a process finds the package of the bundle in ``folder``, and no other of that name."""
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}


def _metadata_of(folder: Path) -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return content


def _input_shape(folder: Path) -> list[int]:
    shape: list[int] = _metadata_of(folder)["network_data_format"]["inputs"]["image"]["spatial_shape"]
    return shape


def loaded_answer(folder: Path, output: Path, *, python: str = sys.executable) -> torch.Tensor:
    """Logits of the network that ``monai.bundle.load`` builds, for one image of random numbers.

    Args:
        folder: a bundle, whose own package is used.
        output: a file for them.
        python: the interpreter of the environment.
    """
    shape = ",".join(map(str, _input_shape(folder)))
    _python(folder, "-c", LOAD, folder.name, str(folder.parent), shape, str(output), python=python)
    answer: torch.Tensor = torch.load(output, weights_only=True)
    return answer


def _monai(folder: Path, command: str, *arguments: str) -> None:
    configs = folder / "configs"
    _python(
        folder,
        *("-m", "monai.bundle", command, *arguments, "--bundle_root", str(folder)),
        *("--meta_file", str(configs / "metadata.json"), "--config_file", str(configs / "inference.json")),
    )


def _python(folder: Path, *arguments: str, python: str = sys.executable) -> str:
    """Run Python in another folder with the bundle's own package; the last line of its errors becomes the fault."""
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [python, *arguments],
            cwd=elsewhere,
            env=own_environment(folder),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise Fault(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with {done.returncode}")
    return done.stdout
