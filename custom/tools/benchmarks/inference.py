"""Time, memory and agreement of inference, from a CT to masks, beside the reference pipeline."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from torch.nn.functional import interpolate

from custom.anatomy.loading import load_class_set
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.prompts.sentences import write_sentence
from custom.text.bank import PromptBank
from custom.text.encoders import create_text_encoder
from custom.tools.benchmarks.inference_page import write_tables
from custom.tools.benchmarks.reference_pipeline import agreement, segment, stock_bundle
from custom.tools.benchmarks.running import (
    ROOT,
    Stopwatch,
    describe_machine,
    peak_memory,
    write_json,
)
from custom.utils.files import atomic_write
from custom.weights.header import run_provenance
from custom.weights.io import save_weights
from custom.weights.volume import describe_volume_weights

CONFIG = ROOT / "bundles" / "film_swinunetr" / "configs" / "inference.json"
DEMO = CONFIG.parents[1] / "models" / "demo.safetensors"
NAMES = load_class_set().names

#: Prompt of the comparison of masks: what the demonstration weights find.
AGREEMENT_PROMPT = "liver, spleen, both kidneys, aorta, bladder, lungs"

FEATURE_SIZE = 48  # as published


class Case(NamedTuple):
    """A row of the comparison.

    Args:
        prompts: segmented one after the other in one process; none: the reference pipeline, which segments all classes.
        part: of the CT: "whole", "middle" (half of each side) or "four" (four copies, one on top of the other).
        cache_gib: memory for encoded windows.
    """

    prompts: tuple[str, ...]
    part: str = "whole"
    cache_gib: float = 0


CASES = {
    "references": Case(()),
    "one class": Case(("liver",)),
    "8 classes": Case((", ".join(NAMES[:8]),)),
    "16 classes": Case((", ".join(NAMES[:16]),)),
    "32 classes": Case((", ".join(NAMES),)),
    "two prompts": Case(("liver", "spleen"), cache_gib=8),
    "two prompts, 4 GiB for features": Case(("liver", "spleen"), cache_gib=4),
    "eight prompts": Case(NAMES[:8], cache_gib=8),
    "one class, four CTs": Case(("liver",), "four"),
    "references, middle": Case((), "middle"),
    "one class, middle": Case(("liver",), "middle"),
    "32 classes, middle": Case((", ".join(NAMES),), "middle"),
}

#: Cases of ours that are given as multiples of another one of ours.
MULTIPLES = {"one class, four CTs": "one class"}


def segment_ours(image: str, weights: str, bank: str, output: str, prompts: Sequence[str], cache_gib: float) -> None:
    """Segment with the bundle's inference.json, and write the seconds of each stage as JSON.

    Args:
        image: A CT.
        weights: Weights of the bundle film_swinunetr.
        bank: A prompt bank with the sentences.
        output: Folder of the results, and of measured.json.
        prompts: Segmented one after the other.
        cache_gib: Memory for encoded windows.
    """
    stopwatch, finished = Stopwatch(), []
    parser = ConfigParser()
    parser.read_config(CONFIG)
    settings = {"image": image, "weights": weights, "text_bank": bank, "output_dir": output, "prompts": list(prompts)}
    parser.update(pairs=settings | {"cache_gib": cache_gib, "overwrite": True, "inferer::mode": "constant"})
    start = time.perf_counter()
    parser.get_parsed_content("checkpointloader")
    network, evaluator = parser.get_parsed_content("network"), parser.get_parsed_content("evaluator")
    for stage, name in (("encode", "encode"), ("encode", "encode_high_res"), ("decode", "decode")):
        setattr(network, name, stopwatch.time(stage, getattr(network, name)))
    preprocessing = parser.get_parsed_content("preprocessing")
    read, *resample = preprocessing.transforms
    preprocessing.transforms = (
        stopwatch.time("read", read),
        *(stopwatch.time("resample", transform) for transform in resample),
    )
    evaluator.inferer = stopwatch.time("inferer", parser.get_parsed_content("inferer"))
    writer = parser.get_parsed_content("postprocessing").transforms[-1]
    timed_write = stopwatch.time("write", writer._write)

    def write(*args: Any) -> None:
        timed_write(*args)
        finished.append(time.perf_counter() - start)

    writer._write = write
    loaded = time.perf_counter() - start
    evaluator.run()
    stages = {stage: seconds for stage, seconds in stopwatch.seconds.items() if stage != "inferer"}
    stages["stitch"] = stopwatch.seconds["inferer"] - stages["encode"] - stages["decode"]
    _write_measured(output, {"finished": [seconds - loaded for seconds in finished], "stages": stages})


def segment_reference(image: str, weights: str, bank: str, output: str) -> None:
    """Segment with the reference pipeline and the same weights; arguments are those of ``ours``."""
    parser = stock_bundle(CONFIG, weights=weights, text_bank=bank)
    parser.get_parsed_content("checkpointloader")
    class_set, device, trained = (parser.get_parsed_content(key) for key in ("class_set", "device", "trained"))
    vector = parser.get_parsed_content("bank")([write_sentence(class_set, [class_set.index("liver")])])
    seconds = segment(
        image,
        parser.get_parsed_content("network").eval(),
        vector.to(device),
        spacing=trained.spacing,
        window=class_set.intensity_window,
        roi_size=trained.roi_size,
        output_dir=output,
        device=device,
    )
    _write_measured(output, {"stages": {"network": seconds}})


def _write_measured(output: str, measured: Mapping[str, Any]) -> None:
    write_json(Path(output) / "measured.json", {**measured, "peak_gib": peak_memory() / 2**30})


def run_benchmark(
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
        cases: Which; by default all.
        folder: Where images, weights and measurements go.
        page: The page to write.
        overwrite: Repeat existing measurements.
    """
    home = (ROOT / folder).absolute()
    home.mkdir(parents=True, exist_ok=True)
    bank = _make_bank(home)
    for name in cases:
        case = CASES[name]
        image = _cut(Path(ct), home, case.part)
        weights = _make_weights(home, bank, Path(ct))
        result = _result_file(home, name)
        if result.is_file() and not overwrite:
            continue
        settings = {"image": str(image), "weights": str(weights), "bank": str(bank), "output": str(result.parent)}
        own = {"prompts": list(case.prompts), "cache_gib": case.cache_gib} if case.prompts else {}
        print(f"{name} ...", flush=True)
        measured = _measure("ours" if case.prompts else "reference", settings | own)
        write_json(result, measured | {"date": date.today().isoformat(), "machine": describe_machine()})
        print(f"{name}: {measured['wall']:.0f} s, {measured['peak_gib']:.2f} GiB", flush=True)
    if not (home / "agreement.json").is_file() or overwrite:
        print("agreement, with the demonstration's weights ...", flush=True)
        rows = agreement(_cut(Path(ct), home, "whole"), AGREEMENT_PROMPT, config=CONFIG, weights=DEMO)
        write_json(home / "agreement.json", [row._asdict() for row in rows])
    write_page(home, ROOT / page)


def write_page(home: Path, page: Path) -> None:
    """Write the measurements of a folder into a page; see ``write_tables``."""
    files = {name: _result_file(home, name) for name in CASES}
    results = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
    for name, result in results.items():
        like = [n for n in results if not CASES[n].prompts and CASES[n].part == CASES[name].part]
        result["theirs"] = results[like[0]] if CASES[name].prompts and like else None
        result["times"] = (MULTIPLES[name], results[MULTIPLES[name]]) if MULTIPLES.get(name) in results else None
    file = home / "agreement.json"
    write_tables(results, json.loads(file.read_text(encoding="utf-8")) if file.is_file() else [], page)


def _result_file(home: Path, name: str) -> Path:
    return home / name.replace(" ", "_").replace(",", "") / "result.json"


def _measure(command: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Wall time and peak memory of a process, and what it reported."""
    script = ROOT / "scripts" / "benchmark.py"
    line = [sys.executable, str(script), command, *(f"--{key}={value}" for key, value in settings.items())]
    log = Path(settings["output"]).with_suffix(".log")
    with log.open("w") as file:
        start = time.perf_counter()
        status = subprocess.run(line, stdout=file, stderr=file, check=False).returncode
        wall = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{' '.join(line)} failed; see {log}.")
    return {"wall": wall, **json.loads((Path(settings["output"]) / "measured.json").read_text())}


def _make_bank(home: Path) -> Path:
    path = home / "bank.safetensors"
    class_set = load_class_set()
    prompts = [*([item.index] for item in class_set), range(1, 9), range(1, 17), range(17, 33)]
    sentences = [write_sentence(class_set, indices) for indices in prompts]
    bank = PromptBank(path, create_text_encoder("minilm"))
    if not all(sentence in bank for sentence in sentences):
        bank(sentences)
        bank.save()
    return path


def _make_weights(home: Path, bank: Path, ct: Path) -> Path:
    """Untrained weights whose bias gives every class about a fiftieth of the CT, so that masks are not empty."""
    path = home / "untrained.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        prompts = PromptBank(bank)
        network = FiLMSwinUNETR(1, 32, FEATURE_SIZE, prompts.dimension, use_flash_attention=True)
        low, high = load_class_set().intensity_window
        values = torch.tensor(np.asarray(nib.load(ct).dataobj, dtype=np.float32))[None, None]
        window = interpolate(((values - low) / (high - low)).clamp(0, 1), (96, 96, 96))
        with torch.inference_mode():
            logits = network.eval()(window, prompts([write_sentence(load_class_set(), [1])]))[0].flatten(1)
        network.out.conv.conv.bias.data -= logits.kthvalue(int(0.98 * logits.shape[1]), dim=1).values
        header = describe_volume_weights(
            network,
            class_set=load_class_set(),
            bank=prompts,
            spacing=[1.5] * 3,
            roi_size=[96] * 3,
            max_classes_per_prompt=16,
            trained_classes=NAMES,
        )
        save_weights(network, path, header=header, provenance=run_provenance() | {"trained": False})
    return path


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
