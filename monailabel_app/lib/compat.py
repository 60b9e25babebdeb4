"""Habits of MONAI Label 0.8.5 that this app cannot have, changed here and nowhere else; each has a test."""

import ctypes
import logging
import signal
import sys

#: Loggers that write requests, paths, image ids or the output of subprocesses at level INFO.
TALKATIVE = (
    "monailabel.datastore",
    "monailabel.endpoints",
    "monailabel.interfaces",
    "monailabel.tasks",
    "monailabel.transform",
    "monailabel.utils",
    "task_train",
    "task_batch_infer",
    "task_scoring",
    "custom.transforms.user_prompts",  # explains a prompt to whoever typed it in a terminal
    "custom.inferers.progress",
    "custom.handlers",
    "custom.weights.io",
    "dicomweb_client",
    "highdicom",
    "sentence_transformers",
)


def keep_patients_out_of_the_log() -> None:
    """Let loggers that name patients, paths or prompts at INFO write warnings only.

    Every logger that MONAI Label set to a level of its own is included.
    """
    for name in [*TALKATIVE, *logging.root.manager.loggerDict]:
        if name.startswith(TALKATIVE):
            logging.getLogger(name).setLevel(logging.WARNING)


def die_with_the_server() -> None:
    """In a subprocess that MONAI Label started for a task: end when the server ends, however it ends.

    Else a training would go on, alone, beside that of the next server.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
