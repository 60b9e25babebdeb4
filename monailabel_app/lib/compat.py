"""Behaviour of MONAI Label 0.8.5 that this app changes, all of it here; each change has a test."""

import ctypes
import logging
import signal
import sys

#: Loggers that write requests, paths, image ids or the output of subprocesses at level INFO.
LOGGERS_WITH_PATIENT_DATA = (
    *("monailabel.datastore", "monailabel.endpoints", "monailabel.interfaces", "monailabel.tasks"),
    *("monailabel.transform", "monailabel.utils", "task_train", "task_batch_infer", "task_scoring"),
    *("custom.inferers.progress", "custom.handlers", "custom.weights.io"),
    *("dicomweb_client", "highdicom", "sentence_transformers"),
)


def keep_patient_data_out_of_logs() -> None:
    """Restrict loggers that name patients, paths or prompts at INFO to warnings.

    Loggers below them that MONAI Label gave a level of their own are included.
    """
    for name in [*LOGGERS_WITH_PATIENT_DATA, *logging.root.manager.loggerDict]:
        if name.startswith(LOGGERS_WITH_PATIENT_DATA):
            logging.getLogger(name).setLevel(logging.WARNING)


def exit_with_server() -> None:
    """In the process of a task: end when the server ends, even when it is killed.

    Otherwise a training would go on beside that of the next server.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
