"""Deep FiLM, Deep FiLM 2 and SwinUNETR on the hippocampus in MR, trained and scored under one budget."""

import json
from pathlib import Path
from typing import Any

from custom.datasets.list_files import write_description
from custom.tools.benchmarks.networks import NETWORKS, train_and_score

#: Settings of every training but the data.
BUDGET = {
    **{"class_set_file": "hippocampus", "feature_size": 24, "roi_size": [32, 64, 32], "train::samples_per_volume": 2},
    **{"epoch_length": 40, "lr_scheduler::warmup_epochs": 1, "val_interval": 2, "learning_rate": 0.002},
    **{"loss::bce_weight": 3, "loss::bce_balance": 0.5, "validate::inferer::overlap": 0.5},
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
    kept = training - 4
    parts = {"training": cases[:kept], "validation": cases[kept:training], "test": cases[training:]}
    labels = {"1": "anterior hippocampus", "2": "posterior hippocampus"}
    write_description({"name": "hippocampus", "labels": labels, **parts}, folder)
    chosen = [networks] if isinstance(networks, str) else networks or ["film_swinunetr", "film2_swinunetr", "swinunetr"]
    budget = BUDGET | {"max_epochs": epochs}
    for name in chosen:  # a hippocampus is thin: a surface tolerance of 1 mm
        train_and_score(NETWORKS[name], folder / name, budget, training=folder, test=folder, surface_tolerance=1)
    for name in chosen:
        print(name, json.loads((folder / name / "eval" / "scores.json").read_bytes())[-1])
