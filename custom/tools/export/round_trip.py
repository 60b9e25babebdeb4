"""The round trip of a bundle: served, downloaded, installed and run without the repository, with the same results."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import nibabel as nib
import numpy as np
from safetensors.torch import load_file

from custom.bundle.root import BundleError, existing_settings, source_bundle
from custom.tools.export.archive import add_large_files, bundle_of_zip, check_zip
from custom.tools.export.verification import Argument, Finding, find, loaded_logits, run, verify_bundle
from custom.tools.phantoms.dataset import write_phantoms
from custom.weights.header import read_header
from custom.weights.io import differing_tensors
from custom.weights.volume import training_settings

REPOSITORY = Path(__file__).resolve().parents[3]

#: The environment variables without those that lead to the repository.
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}


def verify_archive(archive: Path, *, trip: bool, work: Path) -> Iterator[Finding | str]:
    """Verify a zip: its form, the bundle in it (``verify_bundle``) and, if ``trip`` and without a fault, a round trip.

    ``archive`` is what ``custom.tools.export.archive.zip_bundle`` wrote, with the exported folder beside it; the files
    of the round trip go to ``work``.
    """
    yield (found := find(check_zip, archive))
    if found.fault is not None:
        return
    faults = 0
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(archive) as content:
        content.extractall(temporary)
        folder = next(Path(temporary).iterdir())
        added = find(add_large_files, folder, archive.parent / folder.name)
        for finding in verify_bundle(folder) if added.fault is None else [added]:
            faults += isinstance(finding, Finding) and finding.fault is not None
            yield finding
        if trip and not faults:
            yield (fit := find(_knows_kidneys, folder))
            faults += fit.fault is not None
    if trip and not faults:
        yield from round_trip(archive, work=work)


def _knows_kidneys(folder: Path) -> None:
    """Round trip: the weights know both kidneys, which it segments in phantoms."""
    volume = read_header(folder / "models" / "model.safetensors")["volume"]
    if volume["class_set"] != "ct" or not {"left kidney", "right kidney"} <= set(volume["trained_classes"]):
        raise BundleError("these weights do not know the kidneys in CT: verify without --trip")


def round_trip(archive: Path, *, work: Path) -> Iterator[Finding]:
    """Download a zip into a clean environment, and compare the bundle's results there with the repository's.

    Each step is yielded as it ends; a fault ends the round trip. ``work`` keeps the environment and all other files.
    """
    work.mkdir(parents=True, exist_ok=True)
    check = EndToEndCheck(archive, work)
    for step in (check.install, check.download, check.load, check.infer, check.evaluate, check.train):
        yield (found := find(step))
        if found.fault is not None:
            return


class EndToEndCheck:
    """The steps of a round trip, each of which needs those before it; ``python`` runs the downloaded bundle."""

    def __init__(self, archive: Path, work: Path) -> None:
        self.archive, self.name, self.work = archive.resolve(), bundle_of_zip(archive), work.resolve()
        self.fetched = self.work / "downloaded" / self.name
        self.weights = self.work / "model.safetensors"  # a copy without the shipped vectors beside it
        self.data = self.work / "data"
        self.python = Path()

    def install(self) -> None:
        """Round trip: the bundle's requirements install into an empty environment."""
        with zipfile.ZipFile(self.archive) as archive:
            lists = {name: archive.read(f"{self.name}/{name}") for name in ("requirements.txt", "constraints.txt")}
        environment = self.work / f"venv-{hashlib.sha256(b''.join(lists.values())).hexdigest()[:12]}"
        self.python = environment / "bin" / "python"
        complete = environment / "complete"
        if not complete.is_file():
            run([sys.executable, "-m", "venv", "--clear", environment], self.work, CLEAN)
            for name, content in lists.items():
                (environment / name).write_bytes(content)
            pip: list[Argument] = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run([*pip, "-r", "requirements.txt", "-c", "constraints.txt"], environment, CLEAN)
            complete.touch()  # last, so that an interrupted installation is repeated
        run([self.python, "-m", "pip", "check"], self.work, CLEAN)
        command = [str(self.python), "-c", "import custom"]
        if subprocess.run(command, cwd=self.work, env=CLEAN, capture_output=True, check=False).returncode == 0:
            raise BundleError(f"the environment {environment} holds a package custom of its own: remove it")

    def download(self) -> None:
        """Round trip: monai.bundle download fetches it over HTTP."""
        for leftover in ("downloaded", "results"):  # MONAI keeps existing files, and an older bundle would be checked
            shutil.rmtree(self.work / leftover, ignore_errors=True)
        write_phantoms(self.data, seed=50, spacing=(6.0, 6.0, 6.0), splits={"training": 1, "validation": 1, "test": 1})
        with _served(self.archive.parent) as address:
            target = ("--bundle_dir", self.fetched.parent, "--url", f"{address}/{self.archive.name}")
            run([self.python, "-m", "monai.bundle", "download", "--name", self.name, *target], self.work, CLEAN)
        if not (self.fetched / "configs" / "metadata.json").is_file():
            raise BundleError(f"the download made no folder {self.fetched}")
        add_large_files(self.fetched, self.archive.parent / self.name)  # their URLs are not published yet
        shutil.copyfile(self.fetched / "models" / "model.safetensors", self.weights)

    def load(self) -> None:
        """Round trip: monai.bundle.load gives a network with the logits that it has in the repository's environment."""
        there, here = (loaded_logits(self.fetched, python=python)[1] for python in (self.python, sys.executable))
        if not there.equal(here):
            difference = float((there - here).abs().max())
            raise BundleError(f"the logits differ from the repository's by up to {difference:.2g}")

    def infer(self) -> None:
        """Round trip: inference from a prompt gives the masks that it gives in the repository."""
        image = self.data / "images" / "phantom_0002.nii.gz"
        prompt = "both kidneys"  # the bundle ships the vector of its sentence; the repository's run encodes it
        request = ("--image", image, "--prompt", prompt, "--overwrite", "True")
        there, here = self._both("inference", "configs/inference.json", *request, own=["--weights", self.weights])
        masks = sorted(path.relative_to(there) for path in there.rglob("*.nii.gz"))
        if not masks:
            raise BundleError(f"inference wrote no masks to {there}")
        for mask in masks:
            if not np.array_equal(nib.load(there / mask).dataobj, nib.load(here / mask).dataobj):
                raise BundleError(f"the mask {mask} differs from the repository's: {there}, {here}")

    def evaluate(self) -> None:
        """Round trip: evaluation gives the scores that it gives in the repository."""
        configs = str(["configs/train.json", "configs/evaluate.json"])
        data = ("--dataset_dir", self.data)
        there, here = self._both("evaluating", configs, *data, own=["--weights", self.weights])
        scores = [json.loads((folder / "scores.json").read_text(encoding="utf-8")) for folder in (there, here)]
        if scores[0] != scores[1] or not scores[0]:
            raise BundleError(f"the scores differ from the repository's: {there}/scores.json, {here}/scores.json")

    def train(self) -> None:
        """Round trip: two steps of training give the weights that it gives in the repository."""
        config = json.loads((self.fetched / "configs" / "train.json").read_text(encoding="utf-8"))
        settings = existing_settings(config, training_settings(read_header(self.weights)))
        sizes = [f"--{name}={value}" for name, value in settings.items() if value is not None]
        two_steps = ("--max_epochs", "1", "--epoch_length", "2", "--val_interval", "1", "--train::resume", "False")
        data = ("--dataset_dir", self.data)
        there, here = self._both("training", "configs/train.json", *data, *two_steps, own=sizes)
        if names := differing_tensors(*(load_file(path / "models/model.safetensors") for path in (there, here))):
            raise BundleError(f"{len(names)} tensors differ from the repository's, first {names[0]}: {there}, {here}")

    def _both(self, workflow: str, config: str, *arguments: Argument, own: Sequence[Argument]) -> tuple[Path, Path]:
        """Run a workflow of the downloaded bundle, and with ``own`` of the repository's; return both output folders."""
        there, here = (self.work / "results" / workflow / side for side in ("downloaded", "repository"))
        bundle, environment = (
            REPOSITORY / "bundles" / source_bundle(self.fetched),
            os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )
        for output, python, cwd, variables, more in (
            (there, self.python, self.fetched, CLEAN, ()),
            (here, sys.executable, bundle, environment, own),
        ):
            models = ("--ckpt_dir", output / "models") if workflow == "training" else ()
            line = ("-m", "monai.bundle", "run", workflow, "--config_file", config, "--output_dir", output, *models)
            run([python, *line, *arguments, *more], cwd, variables)
        return there, here


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on this computer only; yields its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
