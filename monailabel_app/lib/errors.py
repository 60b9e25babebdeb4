"""Errors that are reported to clients, and their messages."""

import re

import requests
from monailabel.interfaces.exception import MONAILabelException

from custom.utils.errors import root_cause
from custom.utils.memory import NotEnoughMemory

#: The folders of absolute paths, which no client may learn.
_FOLDERS = re.compile(r"(?<![\w/])/(?:[^/\s]+/)+")

#: Advice of ``custom`` that holds only on a command line.
_COMMAND_LINE_ADVICE = ("If it is right all the same, pass --check_intensity False.", "All names: docs/text.md.")


class RequestError(ValueError):
    """A request that is refused for its content; the message is for the client."""


class PacsError(RuntimeError):
    """The PACS answered wrongly, or did not accept a finished label; the message is for the client."""


class PacsBusy(PacsError):
    """Too many requests wait for the PACS."""


#: Errors that are reported to clients; any other is a defect of the app.
CLIENT_ERRORS = (
    ValueError,
    FileNotFoundError,
    MONAILabelException,
    NotEnoughMemory,
    PacsError,
    requests.RequestException,
)


def cause_of(error: BaseException) -> BaseException:
    """The error of a chain whose message explains it."""
    return root_cause(error, packages=("custom", "lib"))


def message_of(error: BaseException) -> str:
    """The message for clients of what caused an error, without the server's folders."""
    cause = cause_of(error)
    message = without_folders(getattr(cause, "msg", "") or str(cause))
    for advice in _COMMAND_LINE_ADVICE:
        message = message.replace(advice, "")
    return message.strip()[:2000] or type(cause).__name__


def without_folders(text: str) -> str:
    """Replace absolute paths in a text by file names."""
    return _FOLDERS.sub("", text)
