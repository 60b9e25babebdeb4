"""Pictures of an evaluation: image, truth and prediction of the worst and of the median case."""

import pickle
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from rich.console import Console

from custom.anatomy import ClassSet
from custom.distributed import gather_cases, is_first
from custom.evaluation import ANSWERS, Count, answering, case_dice
from custom.files import whole_file
from custom.outputs.drawing import Cell, Entry, draw_page, volume_text
from custom.outputs.planes import Panel, choose_panels

#: Intensities of the network's input.
WINDOW = (0.0, 1.0)


class Case(NamedTuple):
    """A case that can be drawn: its image, Dice by label, mL predicted where there is none, and its packed panels."""

    path: str
    dice: dict[int, float]
    imagined: dict[int, float]
    packed: bytes

    @property
    def name(self) -> str:
        """The end of its path: many data sets give every case a folder and the same file name."""
        return "/".join(Path(self.path).parts[-2:])

    @property
    def score(self) -> float:
        """Mean Dice over the classes that the case holds."""
        return mean(self.dice.values())

    @property
    def panels(self) -> list[Panel]:
        """Three sections; layer 0 is the truth, layer 1 the prediction."""
        panels: list[Panel] = pickle.loads(zlib.decompress(self.packed))
        return panels


class ComparisonPictures:
    """Evaluator handler: draws the worst and the median case into ``worst.png`` and ``median.png``.

    Each shows image, truth and prediction side by side, in three planes through the largest structure of the truth.
    Cases are ordered by their mean Dice over the classes they hold; of an even number the better of the middle two is
    the median. A case that holds none is left out. The planes do not depend on what the other cases score, so only
    sections are kept, some 0.1 MB a case.

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
        cases = gather_cases(self.cases, case=lambda case: case.path)
        if not is_first():
            return
        console = Console()
        ranked = sorted(cases, key=lambda case: case.score)
        for word, place in (("worst", 0), ("median", len(ranked) // 2)):
            path = self.output_dir / f"{word}.png"
            if not ranked:
                path.unlink(missing_ok=True)
                continue
            case = ranked[place]
            with whole_file(path) as temporary:
                write_comparison(case, self.class_set, temporary, title=f"{word.capitalize()} case: {case.name}")
            console.print(f"{word.capitalize()} case: {case.name}, mean Dice {case.score:.3f}: {path}", soft_wrap=True)


def case_of(output: Mapping[str, Any], class_set: ClassSet) -> Case | None:
    """What ``CountPrompts`` put out for a volume, as it is drawn; None where the volume holds no labelled class."""
    counts: Sequence[Count] = output[CommonKeys.PRED]
    for path, dice in case_dice(counts).items():  # one
        imagined = {
            count.label: count.predicted * count.voxel_ml
            for count in answering(counts)
            if count.predicted and not count.truth
        }
        image, target, answers = output[CommonKeys.IMAGE], output[CommonKeys.LABEL], output[ANSWERS]
        panels = choose_panels(
            np.asarray(image[0, 0].cpu()),
            [
                {class_set[label]: _mask(target[label - 1] > 0) for label in answers},
                {class_set[label]: _mask(answer) for label, answer in answers.items()},
            ],
            torch.as_tensor(image.affine).reshape(-1, 4, 4)[0].cpu().double().numpy(),
            air=WINDOW[0],
        )
        small = [panel._replace(pixels=panel.pixels.astype(np.float16)) for panel in panels]
        return Case(path, dice, imagined, zlib.compress(pickle.dumps(small), 1))
    return None


def write_comparison(case: Case, class_set: ClassSet, path: str | Path, *, title: str) -> None:
    """Draw image, truth and prediction of a case side by side, a row for each plane."""
    rows = []
    for panel in case.panels:
        truth, predicted = panel.layers
        shown = panel._replace(pixels=panel.pixels.astype(np.float32))
        words = (f"{panel.plane.name}  {panel.position}", "truth", "prediction")
        rows.append([Cell(shown, layer, word) for layer, word in zip(({}, truth, predicted), words, strict=True)])
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


def _mask(tensor: torch.Tensor) -> npt.NDArray[np.bool_]:
    return np.asarray(tensor.cpu())
