"""MONAI Label's habits that lib/compat.py changes: a test fails when one is gone, and then the change goes too."""

import inspect
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("monailabel", reason="the extra 'label' is not installed")
import psutil
from lib.compat import TALKATIVE, keep_patients_out_of_the_log
from monailabel.endpoints import infer
from monailabel.utils.async_tasks import utils


def test_loggers_that_name_patients_are_quiet_even_with_a_level_of_their_own() -> None:
    names = ["task_train", "monailabel.endpoints.infer", "monailabel.datastore.local"]
    levels = {name: logging.getLogger(name).level for name in [*names, *TALKATIVE]}
    try:
        logging.getLogger("task_train").setLevel(logging.INFO)
        keep_patients_out_of_the_log()
        assert not any(logging.getLogger(name).isEnabledFor(logging.INFO) for name in names)
        assert all(logging.getLogger(name).isEnabledFor(logging.WARNING) for name in names)
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def test_the_quiet_is_still_needed() -> None:
    assert 'logger.info(f"Infer Request: {request}")' in inspect.getsource(infer.run_inference)
    assert 'logger.info(f"COMMAND::' in inspect.getsource(utils._task_func)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_task_dies_with_its_server() -> None:
    child = (
        "import time; from lib.compat import die_with_the_server as die; die(); print(1, flush=True); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys\n"
        f"c = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "c.stdout.readline(); print(c.pid, flush=True); c.wait()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    with process.stdout:
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the task outlived its server"
        time.sleep(0.05)


def test_mending_is_still_needed_in_the_stock_tasks() -> None:
    """Client values in displayable configs are parsed; our task never comes there."""
    from monailabel.tasks.infer.bundle import BundleInferTask

    assert "self.bundle_config.parse()" in inspect.getsource(BundleInferTask.pre_transforms)
