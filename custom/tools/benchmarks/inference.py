"""Time, memory and agreement of inference, from a CT to masks, beside the reference pipeline."""

import json
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch.nn.functional import interpolate

from custom.evaluation.report import write_text
from custom.prompts.sentences import write_sentence
from custom.tools.benchmarks.inference_page import CASES, NAMES, SECTION, result_file, write_page
from custom.tools.benchmarks.reference_pipeline import agreement, segment_reference
from custom.tools.benchmarks.running import ROOT, Stopwatch, describe_machine, in_new_process, read_config, split_page
from custom.utils.files import atomic_write
from custom.weights.header import run_provenance
from custom.weights.io import save_weights


def _segment_ours(**settings: Any) -> dict[str, Any]:
    """Segment with the bundle's inference.json, and return the seconds of each stage, and until each result."""
    stopwatch, finished = Stopwatch(), []
    parser = read_config("inference", settings | {"overwrite": True, "inferer::mode": "constant"})
    start = time.perf_counter()
    parser.get_parsed_content("checkpointloader")
    network, evaluator = parser.get_parsed_content("network"), parser.get_parsed_content("evaluator")
    for stage, name in (("encode", "encode"), ("encode", "encode_high_res"), ("decode", "decode")):
        setattr(network, name, stopwatch.time(stage)(getattr(network, name)))
    preprocessing = parser.get_parsed_content("preprocessing")
    read, *resample = preprocessing.transforms
    preprocessing.transforms = (stopwatch.time("read")(read), *map(stopwatch.time("resample"), resample))
    evaluator.inferer = stopwatch.time("stitch")(parser.get_parsed_content("inferer"))
    writer = parser.get_parsed_content("postprocessing").transforms[-1]
    timed_write = stopwatch.time("write")(writer._write)

    def write(*args: Any) -> None:
        timed_write(*args)
        finished.append(time.perf_counter() - start)

    writer._write = write
    loaded = time.perf_counter() - start
    evaluator.run()
    return {"finished": [seconds - loaded for seconds in finished], "stages": dict(stopwatch.seconds)}


def benchmark_inference(
    ct: str,
    *,
    cases: Sequence[str] = tuple(CASES),
    folder: str = "runs/benchmark",
    page: str = "docs/benchmarks.md",
    overwrite: bool = False,
) -> None:
    """Measure every case in a process of its own, and write a page.

    Existing measurements are kept, whatever has changed since, so that an interrupted run can be continued.

    Args:
        ct: A CT, NIfTI.
        cases: Names of cases; by default all.
        folder: Where images, weights and measurements go.
        overwrite: Repeat existing measurements.
    """
    split_page(ROOT / page, SECTION)  # refused before any work
    home = (ROOT / folder).absolute()
    home.mkdir(parents=True, exist_ok=True)
    weights, bank = _make_weights(home, Path(ct))
    for name in cases:
        result, case = result_file(home, name), CASES[name]
        if result.is_file() and not overwrite:
            continue
        print(f"{name} ...", flush=True)
        paths = {"image": _cut(Path(ct), home, case.part), "weights": weights, "text_bank": bank}
        settings: dict[str, Any] = {key: str(path) for key, path in (paths | {"output_dir": result.parent}).items()}
        if case.prompts:
            settings |= {"prompts": list(case.prompts), "cache_gib": case.cache_gib}
        segment = _segment_ours if case.prompts else segment_reference
        measured, wall, peak = in_new_process(segment, **settings)
        measured |= {"wall": wall, "peak_gib": peak / 2**30}
        write_text(result, json.dumps(measured | {"date": date.today().isoformat(), "machine": describe_machine()}))
        print(f"{name}: {wall:.0f} s, {peak / 2**30:.2f} GiB", flush=True)
    if not (home / "agreement.json").is_file() or overwrite:
        print("agreement, with the demonstration's weights ...", flush=True)
        write_text(home / "agreement.json", json.dumps(agreement(_cut(Path(ct), home, "whole"))))
    write_page(home, ROOT / page)


def _make_weights(home: Path, ct: Path) -> tuple[Path, Path]:
    """Untrained weights whose bias gives every class about a fiftieth of the CT, so that masks have voxels; a bank."""
    path, bank_file = home / "untrained.safetensors", home / "bank.safetensors"
    if not (path.is_file() and bank_file.is_file()):
        settings = {"text_bank": str(bank_file), "text_encoder": "minilm", "max_classes_per_prompt": 16}
        parser = read_config("train", settings | {"trained_classes": list(NAMES)})
        class_set, bank = parser.get_parsed_content("class_set"), parser.get_parsed_content("bank")
        prompts = [*([item.index] for item in class_set), range(1, 9), range(1, 17), range(17, 33)]
        vectors = bank([write_sentence(class_set, indices) for indices in prompts])
        bank.save()
        torch.manual_seed(0)
        network = parser.get_parsed_content("network_def")
        low, high = class_set.intensity_window
        values = torch.tensor(np.asarray(nib.load(ct).dataobj, dtype=np.float32))[None, None]
        window = interpolate(((values - low) / (high - low)).clamp(0, 1), (96, 96, 96))
        with torch.inference_mode():
            logits = network.eval()(window, vectors[:1])[0].flatten(1)
        network.out.conv.conv.bias.data -= logits.kthvalue(int(0.98 * logits.shape[1]), dim=1).values
        header = parser.get_parsed_content("header")
        save_weights(network, path, header=header, provenance=run_provenance() | {"trained": False})
    return path, bank_file


def _cut(ct: Path, home: Path, part: str) -> Path:
    """The CT, its middle half, or four copies of it one on top of the other."""
    path = home / f"ct_{part}.nii.gz"
    if not path.is_file():
        image = nib.load(ct)
        values = np.asarray(image.dataobj)
        if part == "middle":
            values = values[tuple(slice(side // 4, side // 4 + side // 2) for side in values.shape)]
        elif part == "four":
            values = np.concatenate([values] * 4, axis=2)
        with atomic_write(path) as temporary:
            nib.save(nib.Nifti1Image(values, image.affine, image.header), temporary)
    return path
