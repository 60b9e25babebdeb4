"""Weights to ship: half precision, with their provenance in the header."""

import json
from pathlib import Path

import torch

from custom.datasets.dataset_json import describe_data
from custom.evaluation.voxel_counts import ALL
from custom.utils.files import save_safetensors
from custom.weights.header import write_metadata
from custom.weights.io import read_weights


def ship_weights(*, weights: str, output: str, dataset_dir: str, scores: str, command: str) -> None:
    """Write trained weights in half precision, their header with data, command and scores added.

    Example: python scripts/ship_weights.py --weights runs/demo/film_swinunetr/models/model.safetensors
    --output demo.safetensors --dataset_dir data/demo_train --scores runs/demo/film_swinunetr/eval/scores.json
    --command "make demo-train"

    Args:
        weights: The .safetensors file that training wrote.
        output: The file to write.
        dataset_dir: Folder of that training's dataset.json; name, description, seed and counts go into the header.
        scores: The scores.json of an evaluation; its rows of all classes go into the header.
        command: The command that trained the weights.
    """
    tensors, header = read_weights(weights)
    rows = json.loads(Path(scores).read_text(encoding="utf-8"))
    cases = json.loads((Path(dataset_dir) / "dataset.json").read_text(encoding="utf-8"))["training"]
    provenance = header["provenance"] | {
        "command": command,
        "precision": "float16",
        "data": describe_data(dataset_dir, cases),
        "test": [row for row in rows if (row["name"], row["dataset"]) == ("all classes", ALL)],
    }
    halved = {name: tensor.half() if tensor.dtype == torch.float32 else tensor for name, tensor in tensors.items()}
    save_safetensors(halved, output, metadata=write_metadata(header, provenance))
    print(f"{output}: {Path(output).stat().st_size / 1e6:.1f} MB")
