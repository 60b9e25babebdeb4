"""Five networks, and five kinds of text vectors, compared under one budget: scores and costs."""

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from timeit import timeit
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from rich.console import Console
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from custom.anatomy.loading import load_class_set
from custom.prompts.vectors import class_vectors
from custom.text.bank import PromptBank
from custom.text.encoders import create_text_encoder
from custom.tools.benchmarks.running import (
    ROOT,
    describe_machine,
    is_trained,
    run_bundle,
    split_page,
    table_header,
    write_json,
    write_section,
)

SECTION = "bench-models"

#: Settings of every training but the data: those of `make demo-train`, in fewer steps.
BUDGET = {
    **{"feature_size": 12, "spacing": [6, 6, 6], "roi_size": [64, 64, 32], "samples_per_volume": 1},
    **{"iterations_per_epoch": 100, "lr_scheduler::warmup_epochs": 2, "val_interval": 4, "learning_rate": 0.003},
    **{
        "loss::bce_weight": 3,
        "loss::bce_balance": 0.5,
        "train::crop_datasets": ["*"],
        "train::crop_ratios": [],
        "loss::dice_of_empty": False,
    },
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


def compare(
    *,
    training_dir: str,
    test_dir: str,
    output_dir: str = "runs/bench",
    epochs: int = 8,
    clip_bank: str | None = None,
    results: str = "docs/results.md",
) -> None:
    """Train, evaluate and measure the networks and the kinds of text, and write the tables into a page.

    Repeat an interrupted call to continue it. Eight epochs are 800 steps, some 15 minutes a training on one core; nine
    trainings in all.

    Example: python scripts/bench_models.py compare --training_dir data/bench_train --test_dir data/bench_test

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
    trainings = dict(NETWORKS)
    for name in TEXTS.keys() - NETWORKS.keys():
        vectors = _class_vectors(name.removeprefix("text_"), folder, clip_bank)
        if vectors is None:
            continue
        encoder = {"_target_": "custom.prompts.ClassMeanEncoder", "class_set": "@class_set", "vectors": vectors}
        trainings[name] = Network(TEXTS[name], "film_swinunetr", SWIN | TEXT | {"bank::encoder": encoder})
    for name, network in trainings.items():
        _train(network, folder / name, training_dir, epochs)
        _evaluate(network, folder / name, test_dir)
    for size in ("small", "published"):
        _measure(size, folder / f"cost_{size}.json")
    tables = _tables(folder, epochs=epochs, texts=[name for name in TEXTS if name in trainings])
    Console().print(tables, markup=False, soft_wrap=True)
    write_section(results, SECTION, f"\n{tables}")
    print(f"Written: {results}")


def cost(*, size: str, networks: Sequence[str] = tuple(NETWORKS), rounds: int = 5) -> None:
    """Print, as JSON, what one window costs: parameters, FLOPs, seconds (median) and the peak memory of this process.

    Networks are timed in turn, round by round, so that their ratios hold on a noisy machine.

    Args:
        size: "published" (96x96x96, the bundles' defaults) or "small" (as trained here).
        networks: Names of networks; peak memory is meaningful for one alone.
        rounds: Timed forward passes of each network, after one that is not timed.
    """
    nets = {name: _build(name, size).eval() for name in networks}
    image = torch.rand(1, 1, *WINDOWS[size])
    seconds: dict[str, list[float]] = {name: [] for name in nets}
    with torch.no_grad():
        for _ in range(1 + rounds):
            for name, net in nets.items():
                seconds[name].append(timeit(partial(net, image), number=1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {}
    for name, net in nets.items():
        # The counter counts attention in its plain form only.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            net(image)
        figures[name] = {
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            "flops": counter.get_total_flops(),
            "seconds": statistics.median(seconds[name][1:]),
            "peak_bytes": peak,
        }
    print(json.dumps(figures))


def _class_vectors(kind: str, folder: Path, clip_bank: str | None) -> str | None:
    """The ``vectors`` argument of ``ClassMeanEncoder`` for a kind of text; None for CLIP without a bank."""
    if kind == "clip":
        return None if clip_bank is None else str(Path(clip_bank).resolve())
    if kind != "minilm":
        return kind
    path = (folder / "minilm.safetensors").resolve()
    if not path.is_file():
        bank = PromptBank(path, create_text_encoder("minilm"))
        class_vectors(bank, load_class_set())
        bank.save()
    return str(path)


def _train(network: Network, folder: Path, dataset_dir: str, epochs: int) -> None:
    last = folder / "models" / "last.pt"
    settings = BUDGET | network.settings | {"max_epochs": epochs, "dataset_dir": str(Path(dataset_dir).resolve())}
    _check_same(folder / "training.json", settings)
    if is_trained(last, epochs):
        return
    settings |= {"ckpt_dir": last.parent.resolve(), "output_dir": (folder / "train").resolve()}
    run_bundle("training", network.bundle, ["train"], settings)


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    """Record the settings that a result is made with; refuse results of other settings or data."""
    if not path.is_file():
        write_json(path, settings)
    elif (recorded := json.loads(path.read_text(encoding="utf-8"))) != settings:
        differing = [setting for setting in {**recorded, **settings} if recorded.get(setting) != settings.get(setting)]
        raise ValueError(
            f"{path} says that what lies beside it was made with another {', '.join(differing)}: remove {path.parent}, "
            "or choose another --output_dir."
        )


def _evaluate(network: Network, folder: Path, dataset_dir: str) -> None:
    weights, scores = folder / "models" / "model.safetensors", folder / "eval" / "scores.json"
    _check_same(folder / "evaluation.json", {"dataset_dir": str(Path(dataset_dir).resolve())})
    if scores.is_file() and scores.stat().st_mtime > weights.stat().st_mtime:
        return
    settings = {"weights": weights.resolve(), "output_dir": scores.parent.resolve()}
    settings |= {"dataset_dir": Path(dataset_dir).resolve()}
    settings |= {setting: value for setting, value in network.settings.items() if setting.startswith("bank::")}
    run_bundle("evaluating", network.bundle, ["train", "evaluate"], settings)


def _measure(size: str, path: Path) -> None:
    """Time all networks in one process, and measure the memory of each in a process of its own."""
    if path.is_file():
        return

    def figures(*arguments: str) -> dict[str, Any]:
        command = [sys.executable, "scripts/bench_models.py", "cost", f"--size={size}", *arguments]
        printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        result: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return result

    found = figures()
    for name, figure in found.items():
        figure["peak_bytes"] = figures(f"--networks={[name]}", "--rounds=1")[name]["peak_bytes"]
    write_json(path, {"date": date.today().isoformat(), "machine": describe_machine(), "networks": found})


def _build(name: str, size: str) -> torch.nn.Module:
    """An untrained network of a bundle: the cost of a window does not depend on the weights."""
    config = ConfigParser()
    config.read_config(ROOT / "bundles" / name / "configs" / "inference.json")
    config["weights"] = "none"
    if size == "small":
        for path, value in NETWORKS[name].settings.items():
            if path.startswith("network_def::"):
                config[path.replace("network_def", "trained")] = value
        config["trained::feature_size"], config["trained::roi_size"] = BUDGET["feature_size"], BUDGET["roi_size"]
    network: torch.nn.Module = config.get_parsed_content("network_def")
    return network


def _tables(folder: Path, *, epochs: int, texts: Sequence[str]) -> str:
    costs = {
        size: json.loads((folder / f"cost_{size}.json").read_text(encoding="utf-8")) for size in ("small", "published")
    }
    published = costs["published"]
    scores = ("Dice, prompted alone", "Dice, prompted together", "leakage", "wrong-prompt Dice")
    prices = ("parameters (M)", "GFLOPs per window", "s per window", "against SwinUNETR", "peak memory (GiB)")
    lines = [
        f"{100 * epochs} steps each. Written {date.today().isoformat()}; costs measured {published['date']} "
        f"on {published['machine']}.",
        "",
        *table_header("network", *scores, *prices),
    ]
    for name, network in NETWORKS.items():
        lines.append(f"| {network.title} | {_scores(folder / name)} | {_cost(costs['small'], name)} |")
    lines += ["", "The same networks at their published sizes, one window of 96x96x96, untrained:", ""]
    lines += table_header("network", *prices)
    lines += [f"| {network.title} | {_cost(published, name)} |" for name, network in NETWORKS.items()]
    lines += ["", "What the text is made of (Deep FiLM):", "", *table_header("text", *scores)]
    lines += [f"| {TEXTS[name]} | {_scores(folder / name)} |" for name in texts]
    return "\n".join(lines) + "\n"


def _scores(folder: Path) -> str:
    rows = json.loads((folder / "eval" / "scores.json").read_text(encoding="utf-8"))
    overall = next(row for row in rows if row["name"] == "all classes" and row["prompt_text"] == "canonical")
    reads_prompts = overall["leakage"] is not None
    figures = [overall[name] for name in ("dice", "dice_dataset", "leakage", "wrong_prompt_dice")]
    figures[0] = figures[0] if reads_prompts else None
    return " | ".join("n/a" if figure is None else f"{figure:.3f}".removeprefix("0") for figure in figures)


def _cost(costs: Mapping[str, Any], name: str) -> str:
    figure, reference = costs["networks"][name], costs["networks"]["swinunetr"]
    return (
        f"{figure['parameters'] / 1e6:.1f} | {figure['flops'] / 1e9:.0f} | {figure['seconds']:.2f} | "
        f"{figure['seconds'] / reference['seconds']:.2f} | {figure['peak_bytes'] / 2**30:.1f}"
    )
