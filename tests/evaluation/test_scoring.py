"""Scores computed by hand; a network that ignores the text scores badly."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from torch import nn

from custom.anatomy.class_set import ClassSet
from custom.datasets.labels import UNKNOWN
from custom.evaluation.report import EvaluationReport
from custom.evaluation.scoring import PromptDice, score, score_datasets
from custom.evaluation.surface_metrics import CaseMetrics, SurfaceMetrics
from custom.evaluation.voxel_counts import PromptEvaluationStep, VoxelCounts
from custom.inferers.sliding_window import PromptedSlidingWindowInferer
from custom.prompts.request import PROMPT_TEXTS
from custom.prompts.resolve import resolve_prompt
from custom.text.bank import PromptBank
from custom.text.no_text import NoText
from custom.transforms.training_prompts import EncodePromptd, ValidationPromptsd

SPLEEN, LIVER, AORTA, PANCREAS = 1, 6, 8, 11
LABELLED = (SPLEEN, LIVER, AORTA, PANCREAS)


def count(case: str, named: tuple[int, ...], label: int, truth: int, predicted: int, overlap: int) -> VoxelCounts:
    return VoxelCounts(case, named, label, truth, predicted, overlap, voxel_ml=0.5)


#: Case a holds both organs; case b holds no liver.
HAND_MADE = [
    count("a", (SPLEEN,), SPLEEN, 50, 50, 40),  # Dice 80 / 100
    count("a", (SPLEEN,), LIVER, 100, 20, 20),  # wrong prompt: Dice 40 / 120, 20 of 100 leak
    count("a", (LIVER,), SPLEEN, 50, 10, 0),  # wrong prompt: Dice 0, 10 of 50 leak
    count("a", (LIVER,), LIVER, 100, 60, 40),  # Dice 80 / 160
    count("a", (SPLEEN, LIVER), SPLEEN, 50, 50, 50),  # Dice 1
    count("a", (SPLEEN, LIVER), LIVER, 100, 300, 100),  # Dice 200 / 400
    count("b", (SPLEEN,), SPLEEN, 30, 10, 10),  # Dice 20 / 40
    count("b", (SPLEEN,), LIVER, 0, 4, 0),  # leaks where the class is absent
    count("b", (LIVER,), SPLEEN, 30, 0, 0),  # wrong prompt: Dice 0, nothing leaks
    count("b", (LIVER,), LIVER, 0, 6, 0),  # 3 mL false positive
    count("b", (SPLEEN, LIVER), SPLEEN, 30, 30, 30),  # Dice 1
    count("b", (SPLEEN, LIVER), LIVER, 0, 0, 0),
]


def test_scores_by_hand(class_set: ClassSet) -> None:
    spleen, liver, overall = score(HAND_MADE, class_set)
    nan = pytest.approx(math.nan, nan_ok=True)
    unmeasured = {"final_dice": nan, "nsd": nan, "hd95": nan, "missed": 0}
    assert asdict(spleen) == {
        "name": "spleen",
        "cases": 2,
        "dice": pytest.approx((0.8 + 0.5) / 2),
        "dice_dataset": 1.0,
        "wrong_prompt_dice": 0.0,
        "leakage": pytest.approx(10 / 80),
        "false_positive_ml": nan,
        **unmeasured,
    }
    assert asdict(liver) == {
        "name": "liver",
        "cases": 1,
        "dice": 0.5,
        "dice_dataset": 0.5,
        "wrong_prompt_dice": pytest.approx(40 / 120),
        "leakage": pytest.approx(0.24),
        "false_positive_ml": 3.0,
        **unmeasured,
    }
    assert asdict(overall) == {
        "name": "all classes",
        "cases": 2,
        "dice": pytest.approx((0.65 + 0.5) / 2),
        "dice_dataset": pytest.approx(0.75),
        "wrong_prompt_dice": pytest.approx(40 / 120 / 2),
        "leakage": pytest.approx((20 + 10 + 4) / (100 + 50 + 30)),
        "false_positive_ml": 3.0,
        **unmeasured,
    }


def metrics(
    case: str, dataset: str, label: int, dice: float, *, predicted_ml: float = 50, hd95: float = 2
) -> CaseMetrics:
    absent = math.isnan(dice)
    nsd = math.nan if absent else dice / 2
    return CaseMetrics(case, dataset, label, dice, dice, nsd, hd95, 0.0 if absent else 60.0, predicted_ml)


def test_final_masks_are_scored_by_class_and_data_set(class_set: ClassSet) -> None:
    counts = [
        *(replace(entry, dataset="01") for entry in HAND_MADE),
        replace(count("c", (SPLEEN,), SPLEEN, 10, 5, 5), dataset="10_09"),
    ]
    entries = [
        metrics("a", "01", SPLEEN, 0.9),
        metrics("b", "01", SPLEEN, 0.0, predicted_ml=0, hd95=math.nan),  # missed
        metrics("c", "10_09", SPLEEN, 0.6, hd95=8),
        metrics("a", "01", LIVER, 0.8, hd95=4),
        metrics("b", "01", LIVER, math.nan, predicted_ml=3, hd95=math.nan),  # absent
    ]
    scores = score_datasets(counts, entries, class_set)
    assert list(scores) == ["all", "01", "10_09"]
    spleen, liver, overall = scores["all"]
    assert (spleen.final_dice, spleen.nsd, spleen.hd95, spleen.missed) == pytest.approx((0.5, 0.25, 5, 1))
    assert (liver.final_dice, liver.nsd, liver.hd95, liver.missed) == pytest.approx((0.8, 0.4, 4, 0))
    assert (overall.final_dice, overall.nsd, overall.hd95, overall.missed) == pytest.approx((0.65, 0.325, 4.5, 1))
    first, second = scores["01"], scores["10_09"]
    assert [row.final_dice for row in first] == pytest.approx([0.45, 0.8, 0.625])
    assert [row.final_dice for row in second] == pytest.approx([0.6, 0.6])
    assert (first[-1].cases, first[-1].dice) == pytest.approx((2, 0.575))
    assert (second[-1].cases, second[-1].dice) == pytest.approx((1, 10 / 15))


def test_an_absent_class_has_no_score(class_set: ClassSet) -> None:
    present, absent = count("a", (SPLEEN,), SPLEEN, 8, 8, 8), count("a", (LIVER,), LIVER, 0, 0, 0)
    _, liver, overall = score([present, absent], class_set)
    assert (liver.cases, liver.false_positive_ml, overall.dice) == (0, 0.0, 1.0)
    assert math.isnan(liver.dice)
    assert math.isnan(liver.leakage)


def test_a_data_set_of_one_class(class_set: ClassSet) -> None:
    spleen, overall = score([count("a", (SPLEEN,), SPLEEN, 50, 50, 40)] * 2, class_set)
    assert (spleen.cases, spleen.dice, spleen.dice_dataset) == (1, 0.8, 0.8)
    assert math.isnan(overall.leakage)


def test_cases_of_one_class_and_of_several_weigh_the_same(class_set: ClassSet) -> None:
    """A network without text on partly labelled data: one case labels the liver alone, the other the spleen too."""
    counts = [
        VoxelCounts("one", (LIVER,), LIVER, 100, 100, 100, 1.0),
        VoxelCounts("two", (SPLEEN, LIVER), LIVER, 100, 0, 0, 1.0),
        VoxelCounts("two", (SPLEEN, LIVER), SPLEEN, 100, 100, 100, 1.0),
    ]
    *rows, overall = score(counts, class_set)
    assert [(row.name, row.cases, row.dice, row.dice_dataset) for row in rows] == [
        ("spleen", 1, 1.0, 1.0),
        ("liver", 2, 0.5, 0.5),
    ]
    assert (overall.dice, overall.cases) == (0.75, 2)
    assert math.isnan(overall.leakage)


def test_only_a_prompt_for_another_class_alone_is_a_wrong_one() -> None:
    """A prompt for several classes says nothing of how well one is told from another."""
    named = {(LIVER,): True, (SPLEEN,): False, (LIVER, AORTA): False, (LIVER, SPLEEN): False}
    counts = [VoxelCounts("ct.nii.gz", classes, SPLEEN, 10, 10, 10, 1.0) for classes in named]
    assert [count.is_wrong_prompt for count in counts] == list(named.values())


def test_a_metric_is_a_figure_of_the_overall_score(class_set: ClassSet) -> None:
    for figure, expected in (("dice", 0.575), ("leakage", 34 / 180), ("false_positive_ml", 3.0)):
        metric = PromptDice(class_set, figure)
        assert math.isnan(metric.compute())
        metric.update(HAND_MADE[:5])
        metric.update(HAND_MADE[5:])
        assert metric.compute() == pytest.approx(expected)
        metric.reset()
        assert math.isnan(metric.compute())


class NamedClasses:
    """A text encoder whose vector says which classes a sentence names."""

    encoder_id = "named"
    kind = "multi-hot"

    def __init__(self, class_set: ClassSet) -> None:
        self.class_set = class_set
        self.dimension = len(class_set)

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        vectors = torch.zeros(len(prompts), self.dimension)
        for vector, prompt in zip(vectors, prompts, strict=True):
            vector[[index - 1 for index in resolve_prompt(prompt, self.class_set).indices]] = 1
        return vectors


class PerfectNetwork(nn.Module):
    """Segments every class, as the image's voxels hold the class index: those that the prompt names, or all."""

    def __init__(self, channels: int, *, reads_text: bool) -> None:
        super().__init__()
        self.reads_text = reads_text
        self.register_buffer("classes", torch.arange(1, channels + 1).reshape(1, -1, 1, 1, 1))
        self.register_buffer("default_text", torch.zeros(1, channels))
        self.encoded = 0

    def encode(self, image: torch.Tensor) -> Any:
        self.encoded += 1
        return (image,)

    def decode(self, features: Any, text: torch.Tensor, *, channels: None = None) -> torch.Tensor:
        mask: torch.Tensor = features[0] == self.classes
        if self.reads_text:
            mask = mask & (text > 0)[:, :, None, None, None]
        return mask.float() * 20.25 - 20  # a structure's logits are just above 0


def cases(class_set: ClassSet) -> list[dict[str, Any]]:
    """Two volumes of 48 x 32 x 32 voxels of 2 mm^3 with one file name; the second has no aorta.

    Neither has a pancreas, but 500 voxels of the first look like one.
    """
    data = []
    for folder in ("one", "two"):
        image = torch.zeros(1, 48, 32, 32)
        image[:, 2:12, 2:12, 2:12] = SPLEEN
        image[:, 14:40, 4:24, 4:24] = LIVER
        if folder == "one":
            image[:, 42:46, 4:24, 4:9] = AORTA
            image[:, 42:46, 25:30, 4:29] = PANCREAS
        target = torch.full((len(class_set), 48, 32, 32), UNKNOWN, dtype=torch.int8)
        for label in LABELLED:
            target[label - 1] = (image[0] == label) & (label != PANCREAS)
        affine = torch.diag(torch.tensor([-2.0, 1, 1, 1]))
        meta = {"filename_or_obj": f"{folder}/ct.nii.gz"}
        data.append({"image": MetaTensor(image, affine=affine, meta=meta), "label": MetaTensor(target, affine=affine)})
    return data


def evaluate(class_set: ClassSet, network: nn.Module, folder: Path, *, requests: str = "per_class") -> dict[str, float]:
    reads = requests == "per_class"
    bank = PromptBank(encoder=NamedClasses(class_set)) if reads else NoText()
    wordings = PROMPT_TEXTS if reads else ("canonical",)
    data: Any = cases(class_set)
    for transform in (
        ValidationPromptsd("label", class_set, requests=requests, prompt_texts=wordings),
        EncodePromptd("prompt", bank),
    ):
        data = Dataset(data, transform)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=1),
        network=network,
        inferer=PromptedSlidingWindowInferer((32, 32, 32), amp=False),
        iteration_update=PromptEvaluationStep(),
        key_val_metric={"mean_dice": PromptDice(class_set)},
        additional_metrics={
            name: PromptDice(class_set, name) for name in ("leakage", "wrong_prompt_dice", "false_positive_ml")
        },
        val_handlers=[SurfaceMetrics(class_set), EvaluationReport(class_set, folder, requests=requests)],
        decollate=False,
    )
    evaluator.run()
    metrics: dict[str, float] = evaluator.state.metrics
    return metrics


@pytest.mark.parametrize("reads_text", [False, True])
def test_a_network_that_ignores_the_text_scores_badly(class_set: ClassSet, tmp_path: Path, reads_text: bool) -> None:
    network = PerfectNetwork(len(class_set), reads_text=reads_text)
    metrics = evaluate(class_set, network, tmp_path / "scores")
    assert network.encoded == 2 * 2  # windows, not windows times prompts
    sizes = {SPLEEN: 1000, LIVER: 10400, AORTA: 400}
    truth = leaked = 0
    for held, false_positive in ((set(sizes), 500), ({SPLEEN, LIVER}, 0)):
        for named in LABELLED:  # each alone
            unnamed = sum(sizes[label] for label in held - {named})
            truth += unnamed
            leaked += unnamed + (0 if named == PANCREAS else false_positive)
    assert metrics == {
        "mean_dice": 1.0,
        "leakage": pytest.approx(0.0 if reads_text else leaked / truth),
        "wrong_prompt_dice": 0.0 if reads_text else 1.0,
        "false_positive_ml": pytest.approx((500 * 2 / 1000 / 2 + 0.0) / 2),  # pancreas: one of two; aorta: none
    }
    assert leaked / truth == pytest.approx(1, abs=0.05)

    records = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert [record["prompt_text"] for record in records] == ["canonical"] * 5 + ["raw"] * 5
    unmeasured = {"final_dice": None, "nsd": None, "hd95": None, "missed": 0}
    for canonical, raw in zip(records[:5], records[5:], strict=True):  # the wording makes no difference to it
        assert canonical | {"prompt_text": "raw"} | unmeasured == raw
    rows = {record["name"]: record for record in records[:5]}
    assert list(rows) == ["spleen", "liver", "aorta", "pancreas", "all classes"]
    assert [row["cases"] for row in rows.values()] == [2, 2, 1, 0, 2]
    for name in ("spleen", "liver", "aorta"):
        assert (rows[name]["dice"], rows[name]["dice_dataset"]) == (1, 1)
        assert (rows[name]["leakage"], rows[name]["wrong_prompt_dice"]) == ((0, 0) if reads_text else (1, 1))
    assert [rows["pancreas"][key] for key in ("dice", "dice_dataset", "leakage", "wrong_prompt_dice")] == [None] * 4
    assert rows["pancreas"]["false_positive_ml"] == pytest.approx(0.5)

    with (tmp_path / "scores" / "scores.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    shown = [{key: "" if value is None else str(value) for key, value in record.items()} for record in records]
    assert table == shown

    with (tmp_path / "scores" / "counts.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    assert len(records) == 2 * 2 * 5 * 4  # volumes, wordings, prompts, classes
    assert {record["case"] for record in records} == {"one/ct.nii.gz", "two/ct.nii.gz"}
    counts = [
        VoxelCounts(
            record["case"],
            tuple(class_set.index(name) for name in record["named"].split(" + ")),
            class_set.index(record["label"]),
            int(record["truth"]),
            int(record["predicted"]),
            int(record["overlap"]),
            float(record["voxel_ml"]),
            record["prompt_text"],
        )
        for record in records
        if record["prompt_text"] == "canonical"
    ]
    for row in score(counts, class_set):
        values = {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in asdict(row).items()}
        assert {"prompt_text": "canonical", "dataset": "all"} | values == rows[row.name] | unmeasured


def test_leakage_does_not_apply_to_a_network_without_text(
    class_set: ClassSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = evaluate(class_set, PerfectNetwork(len(class_set), reads_text=False), tmp_path, requests="dataset")
    assert metrics["mean_dice"] == 1
    assert math.isnan(metrics["leakage"]) and math.isnan(metrics["wrong_prompt_dice"])
    records = json.loads((tmp_path / "scores.json").read_text())
    assert [(row["name"], row["dice"], row["cases"]) for row in records] == [
        *(("spleen", 1, 2), ("liver", 1, 2), ("aorta", 1, 1), ("pancreas", None, 0), ("all classes", 1, 2)),
    ]
    assert {(row["leakage"], row["wrong_prompt_dice"]) for row in records} == {(None, None)}
    assert records[3]["false_positive_ml"] == pytest.approx(0.5)
    printed = capsys.readouterr().out
    assert "the network does not read the prompt" in printed
    assert "n/a" in printed


def test_the_metric_uses_canonical_sentences_only(class_set: ClassSet) -> None:
    metric = PromptDice(class_set)
    metric.update([*HAND_MADE, replace(HAND_MADE[0], prompt_text="raw", overlap=0)])
    assert metric.compute() == pytest.approx(0.575)


def test_more_than_one_volume_at_a_time_is_refused(class_set: ClassSet, tmp_path: Path) -> None:
    data = [{key: item[key] for key in ("image", "label")} for item in cases(class_set)]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=PerfectNetwork(len(class_set), reads_text=True),
        inferer=PromptedSlidingWindowInferer((32, 32, 32), amp=False),
        iteration_update=PromptEvaluationStep(),
    )
    with pytest.raises(ValueError, match="one volume at a time, not 2"):
        evaluator.run()
