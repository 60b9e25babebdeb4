"""The model card of an exported bundle: its metadata, the header of its weights, and its page."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom.tools.export.statements import scores
from custom.weights.header import read_header, trained_on

#: Metadata schema of models on the hub.
ZOO_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_hf_20250321.json"
)

#: The hub's tags of modalities.
TAGS = {"CT": "computed-tomography", "MR": "magnetic-resonance-imaging"}


def write_card(folder: Path) -> str:
    """Return the card, in Markdown, of the bundle in a folder."""
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    weights = folder / "models" / "model.safetensors"
    header = read_header(weights) if weights.is_file() else None
    page = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    page = page.replace("\n# ", "\n## ").removeprefix("# ").strip()
    names = {"`../LICENSE`": "`LICENSE`", "`data_license.txt`": "`docs/data_license.txt`"}  # as seen from the folder
    if header is not None and header["provenance"].get("data", {}).get("name") == "phantom":  # renamed by the export
        names["`models/demo.safetensors`"] = "`models/model.safetensors`"
    for old, new in names.items():
        page = page.replace(old, new)
    parts = [
        f"{_front_matter(metadata)}\n# {metadata['name']} {metadata['version']}",
        f"{metadata['task']}. {metadata['description']}",
        f"**{metadata['intended_use']}**",
        "## The weights",
        "None are shipped: the bundle is untrained." if header is None else _weights(header, metadata),
        f"## {page}",
    ]
    return "\n\n".join(parts) + "\n"


def write_zoo_entry(folder: Path, output_dir: Path, *, model_id: str) -> Path:
    """Write the model zoo's entry for an exported bundle on the Hugging Face hub: README, LICENSE and metadata.

    The exported folder itself is what is uploaded to the hub. The entry, ``<output_dir>/<name>/``, replaces files of an
    earlier one; ``model_id`` must be ``owner/name`` of the model on the hub (ValueError).
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model_id):
        raise ValueError(f"--hugging_face must be owner/name of a model on the hub, not {model_id!r}.")
    entry = output_dir / folder.name
    entry.mkdir(parents=True, exist_ok=True)
    (entry / "LICENSE").write_bytes((folder / "LICENSE").read_bytes())
    fetch = f"python -m monai.bundle download --source huggingface_hub --repo {model_id} --name {folder.name}"
    card = (folder / "README.md").read_text(encoding="utf-8")
    (entry / "README.md").write_text(f"{card}\n## Download\n\n    {fetch}\n", encoding="utf-8")
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    address = {"huggingface_model_id": model_id, "huggingface_url": f"https://huggingface.co/{model_id}"}
    text = json.dumps(metadata | {"schema": ZOO_SCHEMA} | address, indent=4, ensure_ascii=False)
    (entry / "metadata.json").write_text(f"{text}\n", encoding="utf-8")
    return entry


def _front_matter(metadata: Mapping[str, Any]) -> str:
    """The part of a card that the Hugging Face hub reads."""
    modality = metadata["network_data_format"]["inputs"]["image"]["modality"]
    tags = ["monai", "medical", *([TAGS[modality]] if modality in TAGS else []), "segmentation"]
    terms = ["license: apache-2.0"]
    if "license" in metadata:
        terms = ["license: other", f"license_name: {json.dumps(metadata['license'], ensure_ascii=False)}"]
    lines = ["---", "library_name: monai", *terms, "pipeline_tag: image-segmentation", "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---", ""])


def _weights(header: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    provenance, volume = header["provenance"], header["volume"]
    data = provenance.get("data", {})
    packages = ("deep_film", "monai", "torch")
    rows = {
        "structures they know": ", ".join(volume["trained_classes"]),
        "working resolution (mm)": " x ".join(f"{step:g}" for step in volume["spacing"]),
        "window (voxels)": " x ".join(map(str, volume["roi_size"])),
        "text encoder": f"{volume['text_encoder']} ({volume['text_kind']})" if volume["text_encoder"] else "none",
        "prompt when none is given": volume["default_prompt"],
        "trained on": metadata["data_source"] if "license" in metadata else trained_on(header),
        "licence": metadata.get("license"),
        "authors": metadata["authors"] if "license" in metadata else None,
        "training cases": data.get("training_cases"),
        "command": f"`{provenance['command']}`" if "command" in provenance else None,
        "date": provenance.get("date"),
        "versions": ", ".join(f"{name.replace('_', '-')} {provenance.get(name)}" for name in packages),
    }
    rows |= {
        title.replace("_", " "): f"{score:.3f}" for title, score in scores(header).items() if "validation" in title
    }
    for row in provenance.get("test") or []:
        title = f"score on unseen cases ({row['prompt_text']} sentences)"
        rows[title] = ", ".join(f"{key} {row[key]:.3f}" for key in ("dice", "leakage") if row.get(key) is not None)
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value]
    return "\n".join(["| | |", "|---|---|", *lines])
