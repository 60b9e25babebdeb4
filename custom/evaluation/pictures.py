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
from ignite.engine import Engine, Events
from ignite.handlers import EpochOutputStore
from monai.utils import CommonKeys
from nibabel.affines import from_matvec, voxel_sizes
from rich.console import Console

from custom.anatomy.class_set import AnatomicalClass, ClassSet
from custom.evaluation.surface_metrics import CASE_METRICS, CaseMetrics, raw_metrics
from custom.evaluation.voxel_counts import MASKS, affine_of
from custom.utils.distributed import gather_cases
from custom.utils.masks import bounding_box
from custom.visualize.page import Cell, draw_page, shorten, volume_text
from custom.visualize.planes import Masks, Panel, choose_panels

#: Intensities of the network's input.
WINDOW = (0.0, 1.0)

#: Margin around a class in its own picture, in mm.
CLASS_MARGIN = 25


class Case(NamedTuple):
    """A case to draw: the file of its volume, the metrics of its final masks by label, and its panels, compressed.

    ``sections`` are, by label, the axial panels of the classes that the case holds.
    """

    case: str
    metrics: dict[int, CaseMetrics]
    packed: bytes
    sections: dict[int, bytes]

    @property
    def name(self) -> str:
        """Folder and file: in many data sets each case has a folder of its own and the same file name."""
        return "/".join(Path(self.case).parts[-2:])

    @property
    def dice(self) -> dict[int, float]:
        """Dice by label, of the classes that the case holds."""
        return {label: entry.dice for label, entry in self.metrics.items() if entry.truth_ml}

    @property
    def score(self) -> float:
        """Mean Dice over the classes that the case holds."""
        return mean(self.dice.values())


class ComparisonPictures:
    """Evaluator handler: draws the worst and the median case, over all classes and for each.

    ``worst.png`` and ``median.png`` show image, truth and prediction side by side, in three planes through the largest
    structure of the truth; cases are ranked by their mean Dice over the classes they hold. ``classes/<class>.png``
    shows the worst and the median of the cases that hold the class, each in the axial plane where it is widest. With an
    even number of cases the better of the middle two is the median.

    Only the sections to draw are kept of each case: some 0.1 MB, and 10 kB for each class.
    """

    def __init__(self, class_set: ClassSet, output_dir: str | Path) -> None:
        self.class_set = class_set
        self.output_dir = Path(output_dir)
        self.store = EpochOutputStore(lambda output: case_of(output, class_set))

    def attach(self, engine: Engine) -> None:
        self.store.attach(engine)
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _draw(self) -> None:
        cases: list[Case] = gather_cases(list(filter(None, self.store.data)))
        if idist.get_rank() > 0:
            return
        ranks = {rank: self.output_dir / f"{rank}.png" for rank in ("worst", "median")}
        classes = {
            item: self.output_dir / "classes" / f"{item.name.replace(' ', '_').replace('/', '_')}.png"
            for item in self.class_set
        }
        for path in (*ranks.values(), *classes.values()):
            path.unlink(missing_ok=True)
        if not cases:
            return
        console = Console()
        for rank, case in _worst_and_median([(case.score, case) for case in cases]).items():
            title = f"{rank.capitalize()} case: {case.name}"
            write_comparison(case, self.class_set, ranks[rank], title=title)
            console.print(f"{title}, mean Dice {case.score:.3f}: {ranks[rank]}", soft_wrap=True)
        for item, path in classes.items():
            if scored := [(case.dice[item.index], case) for case in cases if item.index in case.sections]:
                title = f"{item.name}: the worst and the median of {len(scored)} cases"
                _write_class_comparison(_worst_and_median(scored), item, path, title=title)
        console.print(f"Worst and median case of each class: {self.output_dir}/classes", soft_wrap=True)


def case_of(output: Mapping[str, Any], class_set: ClassSet) -> Case | None:
    """The case to draw from ``PromptEvaluationStep``'s output for a volume; None where it holds no class."""
    measured: list[CaseMetrics] = output.get(CASE_METRICS) or raw_metrics(output[CommonKeys.PRED])
    metrics = {entry.label: entry for entry in measured}
    present = [label for label, entry in metrics.items() if entry.truth_ml]
    if not present:
        return None
    image, target = np.asarray(output[CommonKeys.IMAGE][0, 0].cpu()), output[CommonKeys.LABEL]
    affine = affine_of(output[CommonKeys.IMAGE]).numpy()
    truth = {class_set[label]: np.asarray((target[label - 1] > 0).cpu()) for label in metrics}
    predicted = {class_set[label]: output[MASKS][label] for label in metrics}
    sections = {}
    for item in (class_set[label] for label in present):
        box = bounding_box(truth[item] | predicted[item], math.ceil(CLASS_MARGIN / float(voxel_sizes(affine).min())))
        cropped: list[Masks] = [{item: truth[item][box]}, {item: predicted[item][box]}]
        shifted = affine @ from_matvec(np.eye(3), [part.start for part in box])
        sections[item.index] = _pack(choose_panels(image[box], cropped, shifted, air=WINDOW[0])[:1])
    packed = _pack(choose_panels(image, [truth, predicted], affine, air=WINDOW[0]))
    return Case(measured[0].case, metrics, packed, sections)


def write_comparison(case: Case, class_set: ClassSet, path: str | Path, *, title: str) -> None:
    """Draw image, truth and prediction of a case side by side, a row for each plane."""
    figures = {label: f"{dice:.3f}" for label, dice in case.dice.items()}
    for label, entry in case.metrics.items():
        if entry.predicted_ml and not entry.truth_ml:
            figures[label] = f"not there, {volume_text(entry.predicted_ml)} predicted"
    draw_page(
        [_row(panel, (panel.caption, "truth", "prediction")) for panel in unpack(case.packed)],
        path,
        window=WINDOW,
        title=title,
        subtitle=f"Mean Dice {case.score:.3f} over {len(case.dice)} structures; the Dice of each is below",
        legend=[(class_set[label], figure) for label, figure in sorted(figures.items())],
    )


def _write_class_comparison(cases: Mapping[str, Case], item: AnatomicalClass, path: str | Path, *, title: str) -> None:
    """Draw image, truth and prediction of a class side by side, a row for each case; the keys are its captions."""
    rows = []
    for rank, case in cases.items():
        (panel,) = unpack(case.sections[item.index])
        entry = case.metrics[item.index]
        figures = f"Dice {entry.dice:.3f}, NSD {entry.nsd:.3f}"
        if not math.isnan(entry.hd95):
            figures += f", HD95 {entry.hd95:.1f} mm"
        captions = (
            shorten(f"{rank}: {case.name}", 60),
            f"truth, {volume_text(entry.truth_ml)}; {panel.caption}",
            f"prediction, {volume_text(entry.predicted_ml)}; {figures}",
        )
        rows.append(_row(panel, captions))
    draw_page(rows, path, window=WINDOW, title=title)


def _row(panel: Panel, captions: tuple[str, str, str]) -> list[Cell]:
    truth, predicted = panel.layers
    return [Cell(panel, layer, caption) for layer, caption in zip(({}, truth, predicted), captions, strict=True)]


def _worst_and_median(scored: Sequence[tuple[float, Case]]) -> dict[str, Case]:
    ranked = [case for _, case in sorted(scored, key=lambda pair: pair[0])]
    return {"worst": ranked[0], "median": ranked[len(ranked) // 2]}


def _pack(panels: Sequence[Panel]) -> bytes:
    small = [panel._replace(pixels=panel.pixels.astype(np.float16)) for panel in panels]
    return zlib.compress(pickle.dumps(small), 1)


def unpack(packed: bytes) -> list[Panel]:
    """Panels of a ``Case``; layer 0 is the truth, layer 1 the prediction."""
    panels: list[Panel] = pickle.loads(zlib.decompress(packed))
    return [panel._replace(pixels=panel.pixels.astype(np.float32)) for panel in panels]
