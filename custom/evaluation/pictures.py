"""Pictures of an evaluation: image, truth and prediction of the worst and of the median case."""

import math
import pickle
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import ignite.distributed as idist
import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from nibabel.affines import from_matvec, voxel_sizes
from rich.console import Console

from custom.anatomy.class_set import AnatomicalClass, ClassSet
from custom.evaluation.counting import ANSWERS
from custom.evaluation.measuring import MEASURED, CaseMetrics, raw_answers
from custom.utils.distributed import gather_cases
from custom.utils.files import atomic_write
from custom.utils.masks import Mask, bounding_box
from custom.visualize.page import Cell, Entry, draw_page, shorten, volume_text
from custom.visualize.planes import Masks, Panel, choose_panels

#: Intensities of the network's input.
WINDOW = (0.0, 1.0)

#: Shown around a class in its own picture, in mm.
SURROUNDINGS = 25


class Case(NamedTuple):
    """A case that can be drawn: path, final answers by label, packed panels, and packed one by one those of classes."""

    case: str
    answers: dict[int, CaseMetrics]
    packed: bytes
    sections: dict[int, bytes]

    @property
    def name(self) -> str:
        """File and folder: many data sets give every case a folder and the same file name."""
        return "/".join(Path(self.case).parts[-2:])

    @property
    def dice(self) -> dict[int, float]:
        """Dice by label, of the classes that the case holds."""
        return {label: answer.dice for label, answer in self.answers.items() if answer.truth_ml}

    @property
    def imagined(self) -> dict[int, float]:
        """mL by label, predicted of the classes that it does not hold."""
        return {
            label: answer.predicted_ml
            for label, answer in self.answers.items()
            if answer.predicted_ml and not answer.truth_ml
        }

    @property
    def score(self) -> float:
        """Mean Dice over the classes that the case holds."""
        return mean(self.dice.values())

    @property
    def panels(self) -> list[Panel]:
        """Three sections; layer 0 is the truth, layer 1 the prediction."""
        return _unpack(self.packed)


class ComparisonPictures:
    """Evaluator handler: draws the worst and the median case, of all classes and of each.

    ``worst.png`` and ``median.png`` show image, truth and prediction side by side, in three planes through the largest
    structure of the truth; cases are ordered by their mean Dice over the classes they hold. ``classes/<class>.png`` has
    the cases in which that class comes out worst and median, each in the axial plane where it is widest. Of an even
    number of cases the better of the middle two is the median; a case that does not hold a class is no case of it.

    Where a case is cut does not depend on what the others score, so only sections are kept: some 0.1 MB a case and
    10 kB a class.

    Args:
        class_set: names and colours.
        output_dir: where the pictures go.
    """

    def __init__(self, class_set: ClassSet, output_dir: str | Path) -> None:
        self.class_set = class_set
        self.output_dir = Path(output_dir)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _start(self, engine: Engine) -> None:
        self.cases: list[Case] = []

    def _collect(self, engine: Engine) -> None:
        if (case := case_of(engine.state.output, self.class_set)) is not None:
            self.cases.append(case)

    def _draw(self, engine: Engine) -> None:
        cases = gather_cases(self.cases)
        if idist.get_rank() > 0:
            return
        console = Console()
        ranked = _worst_and_median([(case.score, case) for case in cases])
        for word in ("worst", "median"):
            path = self.output_dir / f"{word}.png"
            if not ranked:
                path.unlink(missing_ok=True)
                continue
            case = ranked[word]
            with atomic_write(path) as temporary:
                write_comparison(case, self.class_set, temporary, title=f"{word.capitalize()} case: {case.name}")
            console.print(f"{word.capitalize()} case: {case.name}, mean Dice {case.score:.3f}: {path}", soft_wrap=True)
        for item in self.class_set:
            path = self.output_dir / "classes" / f"{item.name.replace(' ', '_').replace('/', '_')}.png"
            scored = [(case.dice[item.index], case) for case in cases if item.index in case.sections]
            if scored:
                title = f"{item.name}: the worst and the median of {len(scored)} cases"
                with atomic_write(path) as temporary:
                    write_class_comparison(_worst_and_median(scored), item, temporary, title=title)
            else:
                path.unlink(missing_ok=True)
        if cases:
            console.print(f"Worst and median case of each class: {self.output_dir}/classes", soft_wrap=True)


def case_of(output: Mapping[str, Any], class_set: ClassSet) -> Case | None:
    """What is drawn of a volume, from ``PromptEvaluationStep``'s output; None where it holds no class."""
    measured: list[CaseMetrics] = output[MEASURED] if MEASURED in output else raw_answers(output[CommonKeys.PRED])
    answers = {answer.label: answer for answer in measured}
    present = [label for label, answer in answers.items() if answer.truth_ml]
    if not present:
        return None
    image, target = np.asarray(output[CommonKeys.IMAGE][0, 0].cpu()), output[CommonKeys.LABEL]
    affine = torch.as_tensor(output[CommonKeys.IMAGE].affine).reshape(-1, 4, 4)[0].cpu().double().numpy()
    layers: list[dict[AnatomicalClass, Mask]] = [
        {class_set[label]: np.asarray((target[label - 1] > 0).cpu()) for label in answers},
        {class_set[label]: np.asarray(output[ANSWERS][label].cpu()) for label in answers},
    ]
    sections = {}
    for item in (class_set[label] for label in present):
        around, own = _surroundings(affine, *(layer[item] for layer in layers))
        cropped: list[Masks] = [{item: layer[item][around]} for layer in layers]
        sections[item.index] = _pack(choose_panels(image[around], cropped, own, air=WINDOW[0])[:1])
    packed = _pack(choose_panels(image, layers, affine, air=WINDOW[0]))
    return Case(measured[0].case, answers, packed, sections)


def write_comparison(case: Case, class_set: ClassSet, path: str | Path, *, title: str) -> None:
    """Draw image, truth and prediction of a case side by side, a row for each plane."""
    rows = [_row(panel, (f"{panel.plane.name}  {panel.position}", "truth", "prediction")) for panel in case.panels]
    figures = {label: f"{dice:.3f}" for label, dice in case.dice.items()}
    figures |= {label: f"not there, {volume_text(volume)} predicted" for label, volume in case.imagined.items()}
    mean_dice = f"Mean Dice {case.score:.3f} over {len(case.dice)} structures"
    draw_page(
        rows,
        path,
        window=WINDOW,
        title=title,
        subtitle=f"{mean_dice}; the Dice of each is below",
        legend=[Entry(class_set[label], figure) for label, figure in sorted(figures.items())],
    )


def write_class_comparison(cases: Mapping[str, Case], item: AnatomicalClass, path: str | Path, *, title: str) -> None:
    """Draw image, truth and prediction of a class side by side, a row for each case; the keys say which it is."""
    rows = []
    for word, case in cases.items():
        (panel,) = _unpack(case.sections[item.index])
        answer = case.answers[item.index]
        figures = f"Dice {answer.dice:.3f}, NSD {answer.nsd:.3f}"
        if not math.isnan(answer.hd95):
            figures += f", HD95 {answer.hd95:.1f} mm"
        words = (
            shorten(f"{word}: {case.name}", 60),
            f"truth, {volume_text(answer.truth_ml)}; {panel.plane.name}  {panel.position}",
            f"prediction, {volume_text(answer.predicted_ml)}; {figures}",
        )
        rows.append(_row(panel, words))
    draw_page(rows, path, window=WINDOW, title=title)


def _row(panel: Panel, words: tuple[str, str, str]) -> list[Cell]:
    truth, predicted = panel.layers
    shown = panel._replace(pixels=panel.pixels.astype(np.float32))
    return [Cell(shown, layer, word) for layer, word in zip(({}, truth, predicted), words, strict=True)]


def _worst_and_median(scored: Sequence[tuple[float, Case]]) -> dict[str, Case]:
    ranked = [case for _, case in sorted(scored, key=lambda pair: pair[0])]
    return {"worst": ranked[0], "median": ranked[len(ranked) // 2]} if ranked else {}


def _surroundings(
    affine: npt.NDArray[np.float64], truth: Mask, predicted: Mask
) -> tuple[tuple[slice, ...], npt.NDArray[np.float64]]:
    """The box around both masks (H, W, D), a margin included, and the affine of what it cuts out."""
    margin = math.ceil(SURROUNDINGS / float(voxel_sizes(affine).min()))
    box = bounding_box(truth | predicted, margin)
    return box, affine @ from_matvec(np.eye(3), [part.start for part in box])


def _pack(panels: Sequence[Panel]) -> bytes:
    small = [panel._replace(pixels=panel.pixels.astype(np.float16)) for panel in panels]
    return zlib.compress(pickle.dumps(small), 1)


def _unpack(packed: bytes) -> list[Panel]:
    panels: list[Panel] = pickle.loads(zlib.decompress(packed))
    return panels
