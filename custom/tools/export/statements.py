"""What a bundle says of weights of a user's own: read from their header, and stated by those who made them."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from custom.anatomy.class_set import ClassSet
from custom.weights.header import Header, trained_on

#: MONAI's word for the intensities of a modality.
FORMATS = {"CT": "hounsfield", "MR": "magnitude"}

#: What a card says where nothing was stated.
UNSTATED = dict.fromkeys(("description", "authors", "license"), "not stated") | {"data": "data that were not stated"}


@dataclass(frozen=True, kw_only=True)
class Statements:
    """What the header of weights cannot say, as the options of ``scripts/export_bundle.py``; None is not stated.

    - `name` of the bundle, of small letters, digits and `_`, and `version`, such as "1.0.0";
    - `description`, `authors`, `license` of the weights;
    - `data`: what they were trained on, where the header does not say, or more of it than the header says;
    - `changelog`: what this version brings, by default the date of the weights.
    """

    name: str | None = None
    version: str | None = None
    description: str | None = None
    authors: str | None = None
    license: str | None = None
    data: str | None = None
    changelog: str | None = None

    @property
    def given(self) -> list[str]:
        """The options that have a value."""
        return [f"--{key}" for key, value in asdict(self).items() if value is not None]

    def check(self, header: Header) -> None:
        """Raise ValueError where something is missing for weights of this header, or of a wrong form."""
        needed = ("name", "version", "description", "authors", "license", *(() if named_data(header) else ("data",)))
        if missing := [key for key in needed if not (getattr(self, key) or "").strip()]:
            raise ValueError(
                f"These weights are your own, and their card must say what only you know: {', '.join(missing)}. Pass "
                f"{' '.join(f'--{key} ...' for key in missing)} (classes, modality, resolution, scores and date are "
                'read from the weights). For your own use "not stated" will do.'
            )
        if not re.fullmatch("[a-z][a-z0-9_]*", str(self.name)):
            raise ValueError(f"--name must be of small letters, digits and _, and begin with a letter: {self.name!r}.")
        if not re.fullmatch(r"\d+\.\d+\.\d+", str(self.version)):
            raise ValueError(f"--version must be three numbers, such as 1.0.0, not {self.version!r}.")
        texts = [text for text in (*asdict(self).values(), data_of(header, self)) if text]
        if expressions := [text for text in texts if text.startswith(("$", "@", "%"))]:
            raise ValueError(f"MONAI would evaluate a text that begins with $, @ or %: {expressions[0]!r:.60}.")

    @classmethod
    def unstated(cls, name: str) -> "Statements":
        """For weights that stay where they were trained: the card says that nothing was stated."""
        return cls(name=name, version="0.0.0", **UNSTATED)


NOTHING = Statements()


def named_data(header: Header) -> bool:
    """Whether a header says what its weights were trained on."""
    data = header["provenance"].get("data") or {}
    return bool(data.get("description") or data.get("name"))


def data_of(header: Header, statements: Statements) -> str:
    """What weights were trained on, by their header and by what is stated."""
    said = [trained_on(header)] if named_data(header) else []
    return "; ".join(dict.fromkeys([*said, *([statements.data] if statements.data else [])]))


def scores(header: Mapping[str, Any]) -> dict[str, float]:
    """Scores of the header: of the test, under the canonical sentences, or else of the validation."""
    provenance = header["provenance"]
    tests = [row for row in provenance.get("test") or [] if row.get("prompt_text") in ("canonical", "unread")]
    kind, row = ("test", tests[0]) if tests else ("validation", provenance.get("validation") or {})
    found = {f"{kind}_{key}": row.get(key) for key in ("mean_dice", "dice", "leakage")}
    return {key: round(v, 4) for key, v in found.items() if isinstance(v, int | float) and math.isfinite(v)}


def describe(header: Header, class_set: ClassSet) -> dict[str, Any]:
    """The metadata, by their path, that follow from any weights."""
    inputs, outputs = (f"network_data_format::{side}" for side in ("inputs::image", "outputs::pred"))
    volume = header["volume"]
    window = " to ".join(f"{value:g}" for value in volume["intensity_window"])
    unit = "percentiles of each image" if class_set.percentiles else "HU" if class_set.modality == "CT" else "units"
    return {
        "image_classes": f"single channel {class_set.modality}, intensities scaled from {window} {unit} to [0, 1]",
        "eval_metrics": scores(header),
        "default_prompt": volume["default_prompt"],
        f"{inputs}::format": FORMATS.get(class_set.modality, "raw"),
        f"{inputs}::modality": class_set.modality,
        f"{inputs}::spatial_shape": volume["roi_size"],
        f"{outputs}::spatial_shape": volume["roi_size"],
        f"{outputs}::num_channels": len(class_set),
        f"{outputs}::channel_def": {str(index): name for index, name in enumerate(class_set.names)},
    }


def describe_own(
    header: Header, class_set: ClassSet, statements: Statements, *, based_on: str, reads_prompt: bool
) -> dict[str, Any]:
    """The further metadata of a user's own weights, in place of those of the bundle ``based_on``."""
    known = header["volume"]["trained_classes"]
    what = f"{', '.join(known) if len(known) <= 5 else f'{len(known)} structures'} in {class_set.modality}"
    changelog = statements.changelog or f"weights of {header['provenance'].get('date', 'unknown date')}"
    return {
        "name": statements.name,
        "version": statements.version,
        "changelog": {statements.version: changelog},
        "task": f"{'Text-guided segmentation' if reads_prompt else 'Segmentation'} of {what}",
        "description": statements.description,
        "authors": statements.authors,
        "copyright": f"Weights: {statements.authors}. Code: Copyright (c) The Deep FiLM authors.",
        "license": statements.license,
        "data_source": data_of(header, statements),
        "based_on": based_on,
    }


def write_pages(folder: Path, header: Header, statements: Statements) -> None:
    """Replace the pages of an exported bundle, which describe other weights."""
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    prompt = header["volume"]["trained_classes"][0]
    license_text = f"The weights were trained on: {metadata['data_source']}.\nTheir licence: {statements.license}\n"
    (folder / "docs" / "data_license.txt").write_text(license_text, encoding="utf-8")
    page = PAGE.format(**metadata, prompt=prompt, network=header["network"])
    (folder / "docs" / "README.md").write_text(page, encoding="utf-8")


PAGE = """# Model overview

{task}. {description}

The network is {network}; input: {image_classes}. Output: a logit map for each class,
sigmoid, threshold 0.5; classes may overlap.

## Data

Trained on {data_source}.

## MONAI Bundle Commands

From this folder:

#### Execute inference

    python -m custom list-classes
    python -m custom segment image.nii.gz "{prompt}" -o out

or, with all settings of `configs/inference.json`:

    python -m monai.bundle run inference --config_file configs/inference.json \\
        --image image.nii.gz --prompt "{prompt}" --output_dir out

#### Execute evaluation

    python -m monai.bundle run evaluating --config_file "['configs/train.json','configs/evaluate.json']" \\
        --dataset_dir /data/mine --split test

#### Execute training

    python -m monai.bundle run training --config_file configs/train.json --dataset_dir /data/mine \\
        --pretrained models/model.safetensors --ckpt_dir models/trained

## License

Weights: {license}. Code: Apache License 2.0 (`../LICENSE`). {intended_use}
"""
