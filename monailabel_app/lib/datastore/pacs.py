"""HTTP with a PACS: only at its own address, and bounded in connections, time and size."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from dicomweb_client import DICOMwebClient
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from lib.errors import PacsBusy, PacsError

logger = logging.getLogger(__name__)

#: Redirects that are followed, all within the PACS's own address.
MAX_REDIRECTS = 3

#: Bytes of a response that is held in memory, and of one that is written or passed on as it comes.
MAX_BYTES, MAX_STREAMED_BYTES = 256 * 2**20, 4 * 2**30

#: The slices of a series may take so many times the time of another response.
SERIES_TIMES = 20

#: Seconds that a request waits for one of the connections.
PATIENCE = 1.0


class Deadline:
    """Closes the connection of a request once its time is over, so that whoever reads from it goes on.

    ``on_end`` is called once: when the time is over, or when the request ends before.
    """

    def __init__(self, seconds: float, *, on_end: Callable[[], None]) -> None:
        self.seconds, self.over = seconds, False
        self._socket: socket.socket | None = None
        self._on_end = [on_end]
        self._lock = threading.RLock()
        self._timer = threading.Timer(seconds, self.end)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, connection: socket.socket | None) -> None:
        with self._lock:
            self._socket = connection
            if self.over:
                self._shut()

    def cancel(self) -> None:
        """The request has ended: its connection may serve another one."""
        self._timer.cancel()
        with self._lock:
            self._socket = None
            if self._on_end:
                self._on_end.pop()()

    def end(self) -> None:
        """Close the connection, unless the request has ended."""
        with self._lock:
            if self._on_end:
                self.over = True
                self._shut()
        self.cancel()

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # closed already
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # of TLS, too, without its farewell

    def check(self) -> None:
        """Raise ``requests.Timeout`` if the time is over."""
        if self.over:
            raise requests.Timeout(f"The PACS took more than {self.seconds:g} s.")


_deadline = threading.local()


class _Watched:
    """Mixin of a connection, whose socket the deadline of the thread's request watches."""

    sock: socket.socket | None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        _deadline.now.watch(self.sock)

    def request(self, *args: Any, **keywords: Any) -> None:
        _deadline.now.watch(self.sock)
        super().request(*args, **keywords)  # type: ignore[misc]


class _Connection(_Watched, HTTPConnection):
    pass


class _TLSConnection(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


POOLS = {"http": _Pool, "https": _TLSPool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **keywords: Any) -> None:
        super().init_poolmanager(*args, **keywords)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, *args: Any, **keywords: Any) -> Any:
        manager = super().proxy_manager_for(*args, **keywords)
        manager.pool_classes_by_scheme = POOLS
        return manager


class _Body:
    """A response's body, which ends with an error when its time is over or its size too large."""

    def __init__(self, body: Any, *, deadline: Deadline, most: int) -> None:
        self._body, self._deadline, self._most = body, deadline, most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def stream(self, amount: int, decode_content: bool | None = None) -> Iterator[bytes]:
        received = 0
        try:
            for piece in self._body.stream(amount, decode_content=decode_content):
                received += len(piece)
                self._deadline.check()
                if received > self._most:
                    raise PacsError(f"The PACS sent more than {self._most / 2**20:.0f} MiB in one response.")
                yield piece
            self._deadline.check()
        finally:
            self.close()

    def abort(self) -> None:
        """End a read that another thread waits for."""
        self._deadline.end()

    def close(self) -> None:
        self._deadline.cancel()
        self._body.close()


class PacsSession(requests.Session):
    """Requests to one address: redirects to another are refused, and time, size and number of requests are bounded.

    Args:
        address: of the PACS; nothing else can be requested.
        seconds: for a request with its response, from the first byte to the last.
        streamed_seconds: the same, where the response is streamed.
        connections: requests at once; another one waits ``PATIENCE``, then raises ``PacsBusy``.

    Raises:
        PacsError: at any request, for another address or a response that is too large.
        PacsBusy: too many requests at once.
        requests.Timeout: the time is over.
    """

    def __init__(self, address: str, *, seconds: float, streamed_seconds: float, connections: int) -> None:
        super().__init__()
        self.auth: Any = _anonymous  # without one, requests takes a password from ~/.netrc
        self.origin, self.max_redirects = _origin(address), MAX_REDIRECTS
        self.seconds, self.streamed_seconds = seconds, streamed_seconds
        self._free = threading.BoundedSemaphore(connections)
        adapter = _Adapter(pool_maxsize=connections)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def get_redirect_target(self, response: requests.Response) -> str | None:
        target: str | None = super().get_redirect_target(response)
        if target is not None:
            response._content, response._content_consumed = b"", True  # of any size, and nobody reads it
            response.raw.close()
            self._require_own(urljoin(response.url, target))
        return target

    def send(self, request: requests.PreparedRequest, **keywords: Any) -> requests.Response:
        self._require_own(request.url or "")
        if getattr(_deadline, "now", None) is not None:  # a redirect, within the time of its request
            return super().send(request, **keywords)
        if not self._free.acquire(timeout=PATIENCE):
            raise PacsBusy("The PACS is slow, and too many requests wait for it. Try again in a while.")
        streamed = bool(keywords.get("stream"))
        deadline = Deadline(self.streamed_seconds if streamed else self.seconds, on_end=self._free.release)
        _deadline.now = deadline
        try:
            response = super().send(request, **{**keywords, "stream": True, "timeout": self.seconds})
            most = MAX_STREAMED_BYTES if streamed else MAX_BYTES
            response.raw = _Body(response.raw, deadline=deadline, most=most)
            if not streamed:
                _ = response.content
        except BaseException as error:
            deadline.cancel()
            if deadline.over and isinstance(error, requests.RequestException):
                deadline.check()
            raise
        finally:
            _deadline.now = None
        return response

    def _require_own(self, address: str) -> None:
        if _origin(address) != self.origin:
            raise PacsError(
                "The PACS redirects to another address, which is not followed: start the server on the address that it "
                "redirects to, if that is the PACS."
            )


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _origin(address: str) -> tuple[str, str, int | None]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def open_session(address: str, *, connections: int, streamed_times: int) -> PacsSession:
    """A session with a PACS, with MONAI Label's settings ``MONAI_LABEL_DICOMWEB_...``.

    A streamed response may take ``streamed_times`` the time of another.
    """
    seconds = settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT
    streamed = seconds * streamed_times
    session = PacsSession(address, seconds=seconds, streamed_seconds=streamed, connections=connections)
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    if user and password:
        session.auth = (user, password)
    return session


def open_client(address: str) -> DICOMwebClient:
    """A client of a DICOMweb service."""
    client = DICOMwebClientX(
        url=address,
        session=open_session(address, connections=16, streamed_times=SERIES_TIMES),
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )
    client.set_http_retry_params(retry=False)  # it would report a failure only after 30 s
    return client


@contextmanager
def reading_response(what: str) -> Iterator[None]:
    """Turn an error of reading a PACS's response, which may be anything, into a PacsError that says what was asked."""
    try:
        yield
    except requests.JSONDecodeError as error:  # a RequestException
        raise _unreadable(what) from error
    except (PacsError, OSError, MemoryError):
        raise
    except Exception as error:
        logger.warning("The PACS's response to a request for %s could not be read: %s.", what, type(error).__name__)
        raise _unreadable(what) from error


def _unreadable(what: str) -> PacsError:
    return PacsError(
        f"The PACS answered a request for {what} with something else than DICOMweb: check that the address of this "
        "server's --studies is its DICOMweb service, and that no login page stands before it."
    )


def search_series(client: DICOMwebClient, filters: Mapping[str, Any]) -> list[Dataset]:
    """The series that a PACS lists, each with its SeriesInstanceUID and StudyInstanceUID.

    Raises:
        PacsError: the response is not a list of such series.
    """
    with reading_response("series"):
        found = [Dataset.from_json(item) for item in client.search_for_series(search_filters=dict(filters)) or ()]
        for series in found:
            if not (series.SeriesInstanceUID and series.StudyInstanceUID):
                raise ValueError
    return found
