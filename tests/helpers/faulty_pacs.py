"""A DICOMweb server on the loopback interface whose faults can be chosen."""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pydicom
from pydicom.filebase import DicomBytesIO

JSON = "application/dicom+json"

Fault = Callable[["Handler"], None]


class FaultyPacs:
    """Holds instances by series. ``faults`` names, by kind of request, what happens in place of a right response.

    Kinds are "search", "metadata", "series", "instance" and "store"; a fault is one of the functions below.
    """

    def __init__(self, files: Iterable[Path] = ()) -> None:
        self.instances: dict[str, list[bytes]] = {}
        self.faults: dict[str, Fault] = {}
        self.listed: dict[str, str] = {}  # modality that a search states of a series, where it is not the header's
        self.requests: list[str] = []
        self.address = ""
        self.released = threading.Event()  # set at the end, for requests that hang
        for file in files:
            self.add(file.read_bytes())

    def add(self, content: bytes) -> None:
        header = pydicom.dcmread(DicomBytesIO(content), stop_before_pixels=True)
        self.instances.setdefault(str(header.SeriesInstanceUID), []).append(content)

    def header(self, series: str) -> pydicom.Dataset:
        return pydicom.dcmread(DicomBytesIO(self.instances[series][0]), stop_before_pixels=True)


@contextmanager
def run_faulty_pacs(files: Iterable[Path] = ()) -> Iterator[FaultyPacs]:
    pacs = FaultyPacs(files)
    handler = type("Bound", (Handler,), {"pacs": pacs})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        pacs.address = f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield pacs
        pacs.released.set()
        server.shutdown()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pacs: FaultyPacs

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def answer(self, content: bytes, kind: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(content)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.removeprefix("/dicom-web")
        series = re.search(r"/series/([\d.]+)", path)
        kind = "metadata" if path.endswith("metadata") else "series" if series else "search"
        kind = "instance" if "/instances/" in path else kind
        self.pacs.requests.append(self.path)
        if fault := self.pacs.faults.get(kind):
            fault(self)
        elif kind == "search":
            self._search()
        elif series is None or series[1] not in self.pacs.instances:
            self.answer(b"", JSON, 404)
        elif kind == "metadata":
            datasets = [pydicom.dcmread(DicomBytesIO(item)) for item in self.pacs.instances[series[1]]]
            for dataset in datasets:
                dataset.pop("PixelData", None)
            self.answer(json.dumps([dataset.to_json_dict() for dataset in datasets]).encode(), JSON)
        else:
            wanted = path.rpartition("/instances/")[2].encode() if kind == "instance" else b""
            send_parts(self, [item for item in self.pacs.instances[series[1]] if wanted in item])

    def _search(self) -> None:
        wanted, found = dict(parse_qsl(urlsplit(self.path).query)), []
        for uid, items in self.pacs.instances.items():
            header, row = self.pacs.header(uid), pydicom.Dataset()
            row.StudyInstanceUID, row.SeriesInstanceUID = header.StudyInstanceUID, uid
            row.Modality = self.pacs.listed.get(uid, header.Modality)
            row.PatientID, row.NumberOfSeriesRelatedInstances = header.PatientID, len(items)
            if all(key not in row or str(row[key].value) == value for key, value in wanted.items()):
                found.append(row.to_json_dict())
        self.answer(json.dumps(found).encode(), JSON)

    def do_POST(self) -> None:
        encoded = self.headers.get("Transfer-Encoding") == "chunked"
        body = b"".join(self._chunks()) if encoded else self.rfile.read(int(self.headers["Content-Length"]))
        self.pacs.requests.append(self.path)
        if fault := self.pacs.faults.get("store"):
            fault(self)
            return
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()  # type: ignore[index]
        for part in body.split(b"--" + boundary)[1:-1]:
            self.pacs.add(part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n"))
        self.answer(b"{}", JSON)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()


def send_parts(handler: Handler, parts: Iterable[bytes]) -> None:
    boundary = uuid.uuid4().hex
    lines = [f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + part + b"\r\n" for part in parts]
    content = b"".join(lines) + f"--{boundary}--\r\n".encode()
    handler.answer(content, f'multipart/related; type="application/dicom"; boundary={boundary}')


def answers(content: bytes, kind: str = JSON, status: int = 200) -> Fault:
    return lambda handler: handler.answer(content, kind, status)


def redirects(address: str) -> Fault:
    return lambda handler: handler.answer(b"", "text/plain", 302, Location=address)


def sends(change: Callable[[list[bytes]], list[bytes]]) -> Fault:
    """Answer a request for a series with changed instances."""

    def send(handler: Handler) -> None:
        uid = re.search(r"/series/([\d.]+)", handler.path)[1]  # type: ignore[index]
        send_parts(handler, change(handler.pacs.instances[uid]))

    return send


def hangs(handler: Handler) -> None:
    handler.pacs.released.wait()


def drips(handler: Handler) -> None:
    """Send a byte at a time, for ever."""
    with suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not handler.pacs.released.is_set():
            handler.wfile.write(b"X")
            handler.wfile.flush()
            time.sleep(0.05)


def drips_after_headers(handler: Handler) -> None:
    with suppress(OSError):
        handler.send_response(200)
        handler.send_header("Content-Type", JSON)
        handler.end_headers()
        while not handler.pacs.released.is_set():
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)


def never_ends(handler: Handler) -> None:
    """Send as much as the client takes, up to 16 GiB."""
    with suppress(OSError):
        handler.send_response(200)
        handler.send_header("Content-Type", JSON)
        handler.end_headers()
        for _ in range(2**14):
            handler.wfile.write(bytes(2**20))
