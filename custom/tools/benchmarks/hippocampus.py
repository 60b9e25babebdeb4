"""Deep FiLM, Deep FiLM 2 and SwinUNETR on the hippocampus in MR, trained and scored under one budget."""

import json
from pathlib import Path
from typing import Any

from custom.datasets.list_files import write_description
from custom.tools.benchmarks.running import is_trained, run_bundle

#: Settings of every training but the data.
BUDGET = {
    **{"class_set_file": "hippocampus", "feature_size": 24, "network_def::window_size": 4, "roi_size": [32, 64, 32]},
    **{"samples_per_volume": 2, "iterations_per_epoch": 40, "val_interval": 2, "lr_scheduler::warmup_epochs": 1},
    **{"learning_rate": 0.002, "loss::bce_weight": 3, "loss::bce_balance": 0.5, "validate::inferer::overlap": 0.5},
}
TOLERANCE = 1  # of the normalized surface Dice, mm: a hippocampus is thin
VALIDATION = 4  # of the training cases

NETWORKS = {
    "film_swinunetr": {"text_encoder": "minilm"},
    "film2_swinunetr": {"text_encoder": "minilm"},
    "swinunetr": {},
}


def compare_hippocampus(
    data: str, *, output_dir: str = "runs/hippocampus", epochs: int = 20, training: int = 30, networks: Any = None
) -> None:
    """Train each network on the first cases and score it on the others; repeat an interrupted call to continue it.

    The last four of the training cases select the weights; the scored cases are not used before.

    Args:
        data: folder with images/ and labels/ of the Decathlon's Task04 (1 anterior, 2 posterior).
        output_dir: receives dataset.json and, for each network, weights and scores.
        epochs: length of each training, in epochs of 40 steps.
        training: cases to train on, in the order of their names; the others are scored.
        networks: some of the networks, as A,B; all when left out.
    """
    folder = Path(output_dir).resolve()
    images = sorted(Path(data).expanduser().resolve().glob("images/*.nii.gz"))
    if len(images) <= training:
        raise ValueError(f"{data} must hold more than {training} images in images/, not {len(images)}.")
    cases = [{"image": str(path), "label": str(path.parents[1] / "labels" / path.name)} for path in images]
    kept = training - VALIDATION
    parts = {"training": cases[:kept], "validation": cases[kept:training], "test": cases[training:]}
    labels = {"1": "anterior hippocampus", "2": "posterior hippocampus"}
    write_description({"name": "hippocampus", "labels": labels, **parts}, folder)
    chosen = [networks] if isinstance(networks, str) else list(networks or NETWORKS)
    for name in chosen:
        own = folder / name
        common = {"dataset_dir": folder, "ckpt_dir": own / "models", "output_dir": own / "train"}
        if not is_trained(own / "models" / "last.pt", epochs):
            run_bundle("training", name, ["train"], {**BUDGET, **NETWORKS[name], **common, "max_epochs": epochs})
        evaluation: dict[str, Any] = {
            "weights": own / "models" / "model.safetensors",
            "output_dir": own / "eval",
            "dataset_dir": folder,
            "surface_tolerance": TOLERANCE,
        }
        run_bundle("evaluating", name, ["train", "evaluate"], evaluation)
    for name in chosen:
        print(name, json.loads((folder / name / "eval" / "scores.json").read_text(encoding="utf-8"))[-1])
