"""Wait for what other processes and threads do."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, timeout: float = 10, pause: float = 0.1) -> None:
    """Call ``condition`` until it holds; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {timeout} s"
        time.sleep(pause)
