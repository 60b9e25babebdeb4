"""Measure our way from a CT to masks beside the references' flow: time, memory, agreement."""

import json
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
from custom.tools.benchmarks.reference_flow import agreement, segment, stock_bundle
from custom.tools.benchmarks.running import ROOT, Stages, describe_machine, measure_process, peak_memory, write_tables
from custom.tools.command_line import run_script
from custom.utils.files import atomic_write
from custom.weights.io import describe_weights, run_provenance, save_weights

CONFIG = ROOT / "bundles" / "film_swinunetr" / "configs" / "inference.json"
DEMO = CONFIG.parents[1] / "models" / "demo.safetensors"
NAMES = load_class_set().names
AGREEING = "liver, spleen, both kidneys, aorta, bladder, lungs"  # what the demonstration's network finds

#: Of the network, as published.
FEATURE_SIZE = 48


class Case(NamedTuple):
    """A row of the comparison.

    Args:
        prompts: asked one after the other in one process; none: the references' flow, which answers all classes.
        part: of the CT: "whole", "middle" (half of each side) or "four" (of it, one on top of the other).
        cache_gib: for encoded windows.
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

#: Of our cases, those that are compared with another one of ours.
LONGER = {"one class, four CTs": "one class"}


def ours(image: str, weights: str, bank: str, output: str, prompts: Sequence[str], cache_gib: float) -> None:
    """Segment as the bundle's inference.json does, and write the seconds of each stage as JSON.

    Args:
        image: A CT.
        weights: Weights of the bundle film_swinunetr.
        bank: A prompt bank with the sentences.
        output: Folder of the answers, and of measured.json.
        prompts: Asked one after the other.
        cache_gib: For encoded windows.
    """
    stages, answered = Stages(), []
    parser = ConfigParser()
    parser.read_config(CONFIG)
    settings = {"image": image, "weights": weights, "text_bank": bank, "output_dir": output, "prompts": list(prompts)}
    parser.update(pairs=settings | {"cache_gib": cache_gib, "overwrite": True})
    parser.update(pairs={"inferer::mode": "constant"})
    start = time.perf_counter()
    parser.get_parsed_content("load")
    network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("inferer")
    evaluator = parser.get_parsed_content("evaluator")
    reading, *resampling = parser.get_parsed_content("preprocessing").transforms
    for stage, name in (("encode", "encode"), ("encode", "encode_high_res"), ("decode", "decode")):
        setattr(network, name, stages.watch(stage, getattr(network, name)))
    preparing = parser.get_parsed_content("preprocessing")
    preparing.transforms = (
        stages.watch("read", reading),
        *(stages.watch("resample", transform) for transform in resampling),
    )
    evaluator.inferer = stages.watch("inferer", inferer)
    writer = parser.get_parsed_content("postprocessing").transforms[-1]
    finish = stages.watch("write", writer._write)

    def write(*args: Any) -> None:
        finish(*args)
        answered.append(time.perf_counter() - start)

    writer._write = write
    loaded = time.perf_counter() - start
    evaluator.run()
    inside = {stage: seconds for stage, seconds in stages.seconds.items() if stage != "inferer"}
    inside["stitch"] = stages.seconds["inferer"] - inside["encode"] - inside["decode"]
    _report(output, {"answered": [seconds - loaded for seconds in answered], "stages": inside})


def reference(image: str, weights: str, bank: str, output: str) -> None:
    """Segment as the references do, with the same weights; arguments are those of ``ours``."""
    parser = stock_bundle(CONFIG, weights=weights, text_bank=bank)
    parser.get_parsed_content("load")
    class_set, device = parser.get_parsed_content("class_set"), parser.get_parsed_content("device")
    vector = parser.get_parsed_content("bank")([write_sentence(class_set, [class_set.index("liver")])])
    seconds = segment(
        image,
        parser.get_parsed_content("network").eval(),
        vector.to(device),
        spacing=parser.get_parsed_content("spacing"),
        window=class_set.intensity_window,
        roi_size=parser.get_parsed_content("roi_size"),
        output_dir=output,
        device=device,
    )
    _report(output, {"stages": {"network": seconds}})


def _report(output: str, measured: Mapping[str, Any]) -> None:
    with atomic_write(Path(output) / "measured.json") as temporary:
        temporary.write_text(json.dumps({**measured, "peak_gib": peak_memory() / 2**30}))


def run_all(
    ct: str,
    *,
    cases: Sequence[str] = tuple(CASES),
    folder: str = "runs/benchmark",
    page: str = "docs/benchmarks.md",
    overwrite: bool = False,
) -> None:
    """Measure every case in a process of its own, the references' flow between them, and write a page.

    What is measured already is kept, whatever has changed since: a run that was stopped goes on.

    Args:
        ct: A CT, NIfTI.
        cases: Which; by default all.
        folder: Where images, weights and measurements go.
        page: The page to write.
        overwrite: Measure again what is measured.
    """
    home = (ROOT / folder).absolute()
    home.mkdir(parents=True, exist_ok=True)
    bank = _make_bank(home)
    for name in cases:
        case = CASES[name]
        image = _cut(Path(ct), home, case.part)
        weights = _make_weights(home, bank, Path(ct))
        result = home / name.replace(" ", "_").replace(",", "") / "result.json"
        if _result(home, name) and not overwrite:
            continue
        settings = {"image": str(image), "weights": str(weights), "bank": str(bank), "output": str(result.parent)}
        asked = {"prompts": list(case.prompts), "cache_gib": case.cache_gib} if case.prompts else {}
        print(f"{name} ...", flush=True)
        measured = _measure("ours" if case.prompts else "reference", settings | asked)
        with atomic_write(result) as temporary:
            told = {"date": date.today().isoformat(), "machine": describe_machine()}
            temporary.write_text(json.dumps(measured | told))
        print(f"{name}: {measured['wall']:.0f} s, {measured['peak_gib']:.2f} GiB", flush=True)
    agreeing = home / "agreement.json"
    if not agreeing.is_file() or overwrite:
        print("agreement, with the demonstration's weights ...", flush=True)
        rows = agreement(_cut(Path(ct), home, "whole"), AGREEING, config=CONFIG, weights=DEMO)
        with atomic_write(agreeing) as temporary:
            temporary.write_text(json.dumps([row._asdict() for row in rows]))
    write_page(home, ROOT / page)


def write_page(home: Path, page: Path) -> None:
    """Write what is measured; see ``write_tables``."""
    results = {name: result for name in CASES if (result := _result(home, name))}
    for name, result in results.items():
        like = [n for n in results if not CASES[n].prompts and CASES[n].part == CASES[name].part]
        result["theirs"] = results[like[0]] if CASES[name].prompts and like else None
        result["times"] = (LONGER[name], results[LONGER[name]]) if LONGER.get(name) in results else None
    agreeing = home / "agreement.json"
    rows = json.loads(agreeing.read_text(encoding="utf-8")) if agreeing.is_file() else []
    write_tables(results, rows, page)


def _result(home: Path, name: str) -> dict[str, Any]:
    path = home / name.replace(" ", "_").replace(",", "") / "result.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return result


def _measure(command: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Wall time and peak memory of a process, and what it reported."""
    line = [sys.executable, __file__, command, *(f"--{key}={value}" for key, value in settings.items())]
    wall = measure_process(line, log=Path(settings["output"]).with_suffix(".log"))
    return {"wall": wall, **json.loads((Path(settings["output"]) / "measured.json").read_text())}


def _make_bank(home: Path) -> Path:
    path = home / "bank.safetensors"
    sentences = [write_sentence(load_class_set(), part) for part in _questions()]
    bank = PromptBank(path, create_text_encoder("minilm"))
    if not all(sentence in bank for sentence in sentences):
        bank(sentences)
        bank.save()
    return path


def _questions() -> list[list[int]]:
    class_set = load_class_set()
    alone = [[item.index] for item in class_set]
    return [*alone, list(range(1, 9)), list(range(1, 17)), list(range(17, 33))]


def _make_weights(home: Path, bank: Path, ct: Path) -> Path:
    """Weights as they are before training, but that every class takes a fiftieth of the CT: masks cost something."""
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
        header = describe_weights(
            class_set=load_class_set(),
            bank=prompts,
            architecture={"variant": "film", "feature_size": FEATURE_SIZE, "window_size": 7},
            spacing=[1.5] * 3,
            roi_size=[96] * 3,
            max_classes_per_prompt=16,
            trained_classes=NAMES,
        )
        save_weights(network, path, header=header, provenance=run_provenance() | {"trained": False})
    return path


def _cut(ct: Path, home: Path, part: str) -> Path:
    """The CT whole, its middle, or four of it one on top of the other."""
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


if __name__ == "__main__":
    run_script({"run": run_all, "ours": ours, "reference": reference})
