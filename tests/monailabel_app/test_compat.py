"""Behaviour of MONAI Label that lib/compat.py changes; a test fails when a change is no longer needed."""

import inspect
import logging
import os
import signal
import subprocess
import sys

import psutil
import pytest
from lib.compat import LOGGERS_WITH_PATIENT_DATA, keep_patient_data_out_of_logs
from monailabel.endpoints import infer
from monailabel.utils.async_tasks import utils

from tests.helpers.waiting import wait_until


def test_loggers_with_patient_data_are_quiet_even_with_a_level_of_their_own() -> None:
    names = ["task_train", "monailabel.endpoints.infer", "monailabel.datastore.local"]
    loggers = {
        name: logging.getLogger(name) for name in [*names, *LOGGERS_WITH_PATIENT_DATA, *logging.root.manager.loggerDict]
    }
    levels = {name: logger.level for name, logger in loggers.items()}
    try:
        logging.getLogger("task_train").setLevel(logging.INFO)
        keep_patient_data_out_of_logs()
        assert not any(logging.getLogger(name).isEnabledFor(logging.INFO) for name in names)
        assert all(logging.getLogger(name).isEnabledFor(logging.WARNING) for name in names)
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def test_quiet_loggers_are_still_needed() -> None:
    assert 'logger.info(f"Infer Request: {request}")' in inspect.getsource(infer.run_inference)
    assert 'logger.info(f"COMMAND::' in inspect.getsource(utils._task_func)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_task_dies_with_its_server() -> None:
    child = "import time; from lib import compat; compat.exit_with_server(); print(1, flush=True); time.sleep(60)"
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
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
