"""Five networks, and five kinds of text vectors, compared under one budget: scores and costs."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from timeit import timeit
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from custom.anatomy.loading import load_class_set
from custom.evaluation.report import write_text
from custom.prompts.vectors import class_vectors
from custom.text.bank import PromptBank
from custom.text.encoders import create_text_encoder
from custom.tools.benchmarks.running import (
    ROOT,
    describe_machine,
    in_new_process,
    markdown_table,
    read_config,
    split_page,
    write_section,
)

SECTION = "bench-models"

#: Settings of every training but the data: those of `make demo-train`, in fewer steps.
BUDGET = {
    **{"feature_size": 12, "spacing": [6, 6, 6], "roi_size": [64, 64, 32], "train::samples_per_volume": 1},
    **{"epoch_length": 100, "lr_scheduler::warmup_epochs": 2, "val_interval": 4, "learning_rate": 0.003},
    **{"loss::bce_weight": 3, "loss::smooth_nr": 1, "loss::bce_balance": 0.5, "loss::dice_of_empty": False},
    **{"train::crop_datasets": ["*"], "train::crop_ratios": []},
}


class Network(NamedTuple):
    """A row of the comparison: its title, its bundle, and the settings of this network."""

    title: str
    bundle: str
    settings: dict[str, Any]


SWIN = {"network_def::window_size": 4}
TEXT = {"text_encoder": "minilm"}
NETWORKS = {
    "film_swinunetr": Network("Deep FiLM", "film_swinunetr", SWIN | TEXT),
    "film2_swinunetr": Network("Deep FiLM 2", "film2_swinunetr", SWIN | TEXT),
    "swinunetr": Network("SwinUNETR", "swinunetr", SWIN),
    "unetr": Network("UNETR", "unetr", {"network_def::hidden_size": 192}),
    "universal_swinunetr": Network("Universal Model", "universal_swinunetr", SWIN | TEXT),
}
#: Windows (H, W, D) in voxels: as trained here, and as published.
WINDOWS = {"small": (64, 64, 32), "published": (96, 96, 96)}

#: Kinds of text vectors, all with Deep FiLM: one per class; a sentence that names several classes gets their mean.
TEXTS = {
    "film_swinunetr": "MiniLM, the whole sentence",
    "text_minilm": "MiniLM, mean of class sentences",
    "text_clip": "CLIP (projected), mean of class sentences",
    "text_random": "random, mean of class vectors",
    "text_onehot": "one-hot, mean of class vectors",
}


def compare_networks(
    *,
    training_dir: str,
    test_dir: str,
    output_dir: str = "runs/bench",
    epochs: int = 8,
    clip_bank: str | None = None,
    results: str = "docs/results.md",
) -> None:
    """Train, evaluate and measure the networks and the kinds of text, and write the tables into a page.

    Repeat an interrupted call to continue it. A training takes some 15 minutes on one core; there are nine.

    Example: python scripts/benchmark.py networks --training_dir data/bench_train --test_dir data/bench_test

    Args:
        training_dir: Folder with a dataset.json whose training and validation cases are used.
        test_dir: Folder with a dataset.json whose test cases are scored.
        output_dir: Folder for weights, scores and measurements.
        epochs: Length of each training, in epochs of 100 steps.
        clip_bank: Prompt bank with CLIP's vectors of the class sentences; that row is left out without it.
        results: Markdown page with the lines "bench-models: begin" and "bench-models: end", between which tables go.
    """
    folder = Path(output_dir)
    split_page(results, SECTION)  # refused before any work
    vectors = {"text_minilm": _minilm_vectors(folder), "text_random": "random", "text_onehot": "onehot"}
    if clip_bank is not None:
        vectors["text_clip"] = str(Path(clip_bank).resolve())
    trainings = dict(NETWORKS)
    for name, source in vectors.items():
        encoder = {"_target_": "custom.prompts.ClassMeanEncoder", "class_set": "@class_set", "vectors": source}
        trainings[name] = Network(TEXTS[name], "film_swinunetr", SWIN | TEXT | {"bank::encoder": encoder})
    budget = BUDGET | {"max_epochs": epochs}
    for name, network in trainings.items():
        train_and_score(network, folder / name, budget, training=Path(training_dir), test=Path(test_dir))
    for size in WINDOWS:
        if not (path := folder / f"cost_{size}.json").is_file():
            measured = {"date": date.today().isoformat(), "machine": describe_machine(), "networks": _costs(size)}
            write_text(path, json.dumps(measured))
    tables = _tables(folder, epochs=epochs, texts=[name for name in TEXTS if name in trainings])
    write_section(results, SECTION, f"\n{tables}")
    print(f"{tables}\nWritten: {results}")


def train_and_score(
    network: Network, folder: Path, budget: Mapping[str, Any], *, training: Path, test: Path, **evaluation: Any
) -> None:
    """Train a network and score it, as users do; what is done already is not repeated.

    Args:
        network: its bundle and settings.
        folder: receives weights (``models``), curves (``train``) and scores (``eval``).
        budget: settings of the training, ``max_epochs`` among them.
        training: folder with a dataset.json whose training and validation cases are used.
        test: folder with a dataset.json whose test cases are scored.
        **evaluation: settings of the evaluation.

    Raises:
        ValueError: the folder has results of other settings or data.
        subprocess.CalledProcessError: a run failed.
    """
    folder = folder.resolve()
    last, weights = folder / "models" / "last.pt", folder / "models" / "model.safetensors"
    settings = {**budget, **network.settings, "dataset_dir": str(training.resolve())}
    _check_same(folder / "training.json", settings)
    if not last.is_file() or torch.load(last, "cpu", weights_only=True)["epoch"] < settings["max_epochs"]:
        _run("training", network, ["train"], {**settings, "ckpt_dir": last.parent, "output_dir": folder / "train"})
    settings = {"dataset_dir": str(test.resolve())}
    _check_same(folder / "evaluation.json", settings)
    scores = folder / "eval" / "scores.json"
    if not scores.is_file() or scores.stat().st_mtime <= weights.stat().st_mtime:
        settings |= {name: value for name, value in network.settings.items() if name.startswith("bank::")}
        settings |= {"weights": weights, "output_dir": scores.parent, **evaluation}
        _run("evaluating", network, ["train", "evaluate"], settings)


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    """Record the settings that a result is made with; refuse results of other settings or data."""
    if not path.is_file():
        write_text(path, json.dumps(settings))
    elif (recorded := json.loads(path.read_bytes())) != settings:
        differing = [setting for setting in {**recorded, **settings} if recorded.get(setting) != settings.get(setting)]
        raise ValueError(
            f"{path} says that what lies beside it was made with another {', '.join(differing)}: remove {path.parent}, "
            "or choose another --output_dir."
        )


def _run(command: str, network: Network, configs: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Run ``python -m monai.bundle run`` in the repository's root, and print the command line."""
    files = [f"bundles/{network.bundle}/configs/{config}.json" for config in configs]
    line = [sys.executable, "-m", "monai.bundle", "run", command, "--config_file", str(files)]
    line += [part for setting, value in settings.items() for part in (f"--{setting}", str(value))]
    print(" ".join(line[1:]), flush=True)
    subprocess.run(line, cwd=ROOT, check=True)


def _minilm_vectors(folder: Path) -> str:
    """The bank of MiniLM's vectors of the class sentences."""
    path = (folder / "minilm.safetensors").resolve()
    if not path.is_file():
        bank = PromptBank(path, create_text_encoder("minilm"))
        class_vectors(bank, load_class_set())
        bank.save()
    return str(path)


def _costs(size: str) -> dict[str, Any]:
    """Time all networks in one process, and measure the memory of each in a process of its own."""
    found, _, _ = in_new_process(cost, size)
    for name, figures in found.items():
        _, _, figures["peak_bytes"] = in_new_process(segment_window, name, size)
    return dict(found)


def segment_window(name: str, size: str) -> None:
    """Build a network and run it once."""
    with torch.no_grad():
        _build(name, size)(torch.rand(1, 1, *WINDOWS[size]))


def cost(size: str, *, rounds: int = 5) -> dict[str, Any]:
    """What one window costs by network: ``parameters``, ``flops``, and ``seconds`` (median).

    Networks are timed in turn, round by round, so that their ratios hold on a noisy machine.

    Args:
        size: a key of ``WINDOWS``.
        rounds: timed forward passes of each network, after one that is not timed.
    """
    nets = {name: _build(name, size) for name in NETWORKS}
    image = torch.rand(1, 1, *WINDOWS[size])
    seconds: dict[str, list[float]] = {name: [] for name in nets}
    figures: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for _ in range(1 + rounds):
            for name, net in nets.items():
                seconds[name].append(timeit(partial(net, image), number=1))
        for name, net in nets.items():
            # The counter counts attention in its plain form only.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                net(image)
            parameters = sum(parameter.numel() for parameter in net.parameters())
            figures[name] = {"parameters": parameters, "flops": counter.get_total_flops()}
            figures[name]["seconds"] = median(seconds[name][1:])
    return figures


def _build(name: str, size: str) -> torch.nn.Module:
    """An untrained network of a bundle: the cost of a window does not depend on the weights."""
    settings: dict[str, Any] = {"weights": "none"}
    if size == "small":
        sizes = BUDGET | NETWORKS[name].settings
        for path in sizes.keys() & {"feature_size", "roi_size", "network_def::window_size", "network_def::hidden_size"}:
            settings[f"trained::{path.removeprefix('network_def::')}"] = sizes[path]
    network: torch.nn.Module = read_config("inference", settings, bundle=name).get_parsed_content("network_def")
    return network.eval()


def _tables(folder: Path, *, epochs: int, texts: Sequence[str]) -> str:
    costs = {size: json.loads((folder / f"cost_{size}.json").read_bytes()) for size in WINDOWS}
    published = costs["published"]
    scores = ("Dice, prompted alone", "Dice, prompted together", "leakage", "wrong-prompt Dice")
    prices = ("parameters (M)", "GFLOPs per window", "s per window", "against SwinUNETR", "peak memory (GiB)")
    blocks = [
        f"{100 * epochs} steps each. Written {date.today().isoformat()}; costs measured {published['date']} "
        f"on {published['machine']}.",
        markdown_table(
            ("network", *scores, *prices),
            [(row.title, *_scores(folder / name), *_cost(costs["small"], name)) for name, row in NETWORKS.items()],
        ),
        "The same networks at their published sizes, one window of 96x96x96, untrained:",
        markdown_table(("network", *prices), [(row.title, *_cost(published, name)) for name, row in NETWORKS.items()]),
        "What the text is made of (Deep FiLM):",
        markdown_table(("text", *scores), [(TEXTS[name], *_scores(folder / name)) for name in texts]),
    ]
    return "\n\n".join(blocks) + "\n"


def _scores(folder: Path) -> list[str]:
    rows = json.loads((folder / "eval" / "scores.json").read_bytes())
    overall = next(row for row in rows if row["name"] == "all classes" and row["prompt_text"] == "canonical")
    reads_prompts = overall["leakage"] is not None
    figures = [overall[name] for name in ("dice", "dice_dataset", "leakage", "wrong_prompt_dice")]
    figures[0] = figures[0] if reads_prompts else None
    return ["n/a" if figure is None else f"{figure:.3f}".removeprefix("0") for figure in figures]


def _cost(costs: Mapping[str, Any], name: str) -> list[str]:
    own = costs["networks"][name]
    seconds, other = own["seconds"], costs["networks"]["swinunetr"]["seconds"]
    work = (f"{own['parameters'] / 1e6:.1f}", f"{own['flops'] / 1e9:.0f}")
    return [*work, f"{seconds:.2f}", f"{seconds / other:.2f}", f"{own['peak_bytes'] / 2**30:.1f}"]
