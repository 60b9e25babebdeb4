"""Errors whose words reach clients, and what of them does."""

import re

import requests
from monailabel.interfaces.exception import MONAILabelException

from custom.utils.errors import root_cause

#: The folders of absolute paths, which are nobody's business but the server's.
_FOLDERS = re.compile(r"(?<![\w/])/(?:[^/\s]+/)+")

#: What only a command line can do.
_ELSEWHERE = ("If it is right all the same, pass --check_intensity False.", "All names: docs/text.md.")


class RequestError(ValueError):
    """A request that is refused for what it holds; its words are for the client."""


class PacsError(RuntimeError):
    """The PACS did not take what was finished here."""


class Explained(Exception):
    """An error that was met deep inside, with the one that explains it."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


#: Errors that a client is told of; any other is a fault of ours.
SAID = (ValueError, FileNotFoundError, MONAILabelException, PacsError, requests.RequestException)


def cause_of(error: BaseException) -> BaseException:
    """The error whose words are for the client."""
    if isinstance(error, Explained):
        return error.cause
    return root_cause(error, packages=("custom", "lib"))


def words(error: BaseException) -> str:
    """What an error says, without the server's folders."""
    said = without_folders(getattr(error, "msg", "") or str(error))
    for advice in _ELSEWHERE:
        said = said.replace(advice, "")
    return said.strip()[:2000] or type(error).__name__


def without_folders(text: str) -> str:
    """A text in which absolute paths are file names."""
    return _FOLDERS.sub("", text)
