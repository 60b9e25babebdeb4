"""What stands before every request: who may ask from where, how much, and that an error is answered with its words."""

import ipaddress
import re
from collections.abc import Collection
from contextlib import suppress
from urllib.parse import parse_qsl, urlsplit

import requests
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.errors import PacsError, cause_of, words

#: Largest request that carries a file, and largest of all others, in bytes.
LARGEST_UPLOAD = 2 * 2**30
LARGEST_REQUEST = 2**21

#: Requests that carry files.
_UPLOADS = ("/infer/", "/datastore/", "/session/", "/proxy/dicom/")

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]|\.\.|^\.")


class Guard:
    """ASGI middleware: answers only its own hosts, refuses foreign pages, oversized requests and paths in queries.

    Args:
        app: what answers.
        hosts: names under which other computers may reach this server; none: only this computer may.
        origins: pages of other hosts that may call this server (``MONAI_LABEL_CORS_ORIGINS``).
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self.app = app
        self.hosts = {host.lower() for host in hosts}
        self.origins = {origin.rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            refusal = self._refusal(scope)
        except ValueError:  # of urlsplit
            refusal = refuse(400, "The headers Host and Origin must be addresses.")
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        limit = LARGEST_UPLOAD if scope["path"].startswith(_UPLOADS) else LARGEST_REQUEST
        received = 0
        started = False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _TooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if received <= limit:
                started = True
                await send(message)

        with suppress(_TooLargeError):
            await self.app(scope, counted, watched)
        if received > limit and not started:
            await refuse(413, f"A request here must have at most {limit} bytes.")(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if not self.hosts and not _is_loopback(scope):
            return refuse(403, "This server answers its own computer only; see --conf hosts in the documentation.")
        if name not in _LOOPBACK | self.hosts:
            return refuse(403, "This server is not known by that name; see --conf hosts in the documentation.")
        origin = headers.get("origin", "").rstrip("/")
        if origin and urlsplit(origin).netloc != host and origin not in self.origins:
            return refuse(403, "Pages of other sites may not call this server; see MONAI_LABEL_CORS_ORIGINS.")
        limit = LARGEST_UPLOAD if scope["path"].startswith(_UPLOADS) else LARGEST_REQUEST
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            return refuse(413, f"A request here must have at most {limit} bytes.")
        if not scope["path"].startswith(("/proxy/", "/ohif/")):  # a PACS's own queries, and the viewer's
            for key, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
                if len(value) > 256 or _UNSAFE.search(value):
                    return refuse(400, f"{key[:40]} must be an identifier of at most 256 characters, without / or ..")
        return None


class _TooLargeError(Exception):
    pass


def _is_loopback(scope: Scope) -> bool:
    client = scope.get("client")
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def refuse(status: int, detail: str) -> JSONResponse:
    """An error as every client understands it: ``{"detail": words}``."""
    return JSONResponse({"detail": detail}, status_code=status)


async def error_response(request: Request, error: Exception) -> JSONResponse:
    """Answer in words: 400 for a fault of the request, 404 for what is not there, 502 for a fault of the PACS."""
    if isinstance(error, RequestValidationError):
        problems = [f"{'.'.join(str(part) for part in entry['loc'])[:80]}: {entry['msg']}" for entry in error.errors()]
        return refuse(400, "; ".join(problems[:5]))
    cause = cause_of(error)
    if isinstance(cause, requests.RequestException):
        return refuse(502, "The PACS does not answer as it should: look at it, and at the log of this server.")
    if isinstance(cause, PacsError):
        return refuse(502, words(cause))
    missing = isinstance(cause, FileNotFoundError | ImageNotFoundException | LabelNotFoundException)
    return refuse(404 if missing else 400, words(cause))
