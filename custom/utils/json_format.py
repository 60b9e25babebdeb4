"""Config files as a person reads them: what fits stands on one line."""

import json
from typing import Any


def format_json(content: Any, *, width: int = 120) -> str:
    """JSON text, indented by four, in lines of at most ``width`` characters; the top level is written entry by entry.

    What holds no objects stands on one line if it fits; longer plain lists are filled.
    """
    return _write(content, indent=0, room=width, width=width) + "\n"


def _write(value: Any, *, indent: int, room: int, width: int) -> str:
    """One value; ``room`` is what its first line may take, in characters."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value:
        return flat
    if isinstance(value, dict):
        entries = [(f"{json.dumps(name, ensure_ascii=False)}: ", part) for name, part in value.items()]
    else:
        entries = [("", part) for part in value]
    if indent and len(flat) < room and not any(isinstance(part, dict) for _, part in entries):
        return flat
    inner = indent + 4
    rows = [key + _write(part, indent=inner, room=width - inner - len(key), width=width) for key, part in entries]
    if isinstance(value, list) and not any(isinstance(part, dict | list) for part in value):
        rows = _fill(rows, room=width - inner)
    line = "\n" + " " * indent
    written = f",{line}    ".join(rows)
    return f"{flat[0]}{line}    {written}{line}{flat[-1]}"


def _fill(texts: list[str], *, room: int) -> list[str]:
    """Texts, with commas between, on as few lines as hold them."""
    lines = [texts[0]]
    for text in texts[1:]:
        if len(lines[-1]) + len(text) + 3 <= room:
            lines[-1] += f", {text}"
        else:
            lines.append(text)
    return lines
