"""Verify exported bundles: the model zoo's requirements, that they work by themselves, and a round trip."""

import logging
import sys
from pathlib import Path

from custom.tools.command_line import run_script
from custom.tools.export.round_trip import verify_archive
from custom.tools.export.verification import verify_bundle


def main(*bundles: str, trip: bool = False, work_dir: str = "runs/verify") -> None:
    """Verify exported bundles; prints a line per check and exits with 1 where there is a fault.

    A bundle is a program. First its files are checked as data; where they have no fault, further checks run its code
    with your rights, and a line says so before. Verify only bundles from a source that you trust.

    Args:
        bundles: zips that export_bundle.py wrote, or, without --trip, their folders.
        trip: also serve each zip on this computer, download it into an environment of its own (made in some minutes,
            about 2 GB, kept) and compare its inference, evaluation and two steps of training with the repository's. The
            exported folder must lie beside the zip.
        work_dir: for the environment and the files of the round trip.
    """
    if not bundles:
        raise SystemExit("Name at least one bundle: python scripts/verify_bundle.py dist/film_swinunetr_v0.3.0.zip")
    if trip and (folders := [bundle for bundle in bundles if Path(bundle).is_dir()]):
        raise SystemExit(f"A round trip fetches a zip; {folders[0]} is a folder: name the zip beside it.")
    logging.getLogger("monai").setLevel(logging.WARNING)
    logging.getLogger("monai.bundle.scripts").setLevel(logging.WARNING)
    faults = 0
    for bundle in map(Path, bundles):
        print(bundle, flush=True)
        findings = verify_bundle(bundle) if bundle.is_dir() else verify_archive(bundle, trip=trip, work=Path(work_dir))
        for found in findings:
            if isinstance(found, str):
                print(f"  {found}", flush=True)
                continue
            check, fault = found
            faults += fault is not None
            print(f"  ok     {check}" if fault is None else f"  FAULT  {check}\n         {fault}", flush=True)
    if faults:
        sys.exit(f"{faults} fault{'s' * (faults > 1)} found.")


if __name__ == "__main__":
    run_script(main)
