"""Config files as a person reads them: what fits stands on one line."""

import json
from typing import Any

#: Longest line of a config, in characters.
WIDTH = 120


def format_json(content: Any, *, width: int = WIDTH) -> str:
    """JSON text, indented by four: what holds no objects stands on one line if it fits, longer plain lists are filled.

    The top level is always written entry by entry.
    """
    return _write(content, indent=0, room=width, width=width) + "\n"


def _write(value: Any, *, indent: int, room: int, width: int) -> str:
    """One value; ``room`` is what its first line may take, in characters."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value:
        return flat
    parts = value.values() if isinstance(value, dict) else value
    if indent and len(flat) < room and not any(isinstance(part, dict) for part in parts):
        return flat
    pad, inner = " " * indent, indent + 4
    if isinstance(value, list) and not any(isinstance(part, dict | list) for part in value):
        rows = _fill([json.dumps(part, ensure_ascii=False) for part in value], room=width - inner)
    elif isinstance(value, list):
        rows = [_write(part, indent=inner, room=width - inner, width=width) for part in value]
    else:
        rows = []
        for name, part in value.items():
            key = f"{json.dumps(name, ensure_ascii=False)}: "
            rows.append(key + _write(part, indent=inner, room=width - inner - len(key), width=width))
    opening, closing = ("[", "]") if isinstance(value, list) else ("{", "}")
    return "\n".join([opening, *(f"{pad}    {row}," for row in rows[:-1]), f"{pad}    {rows[-1]}", pad + closing])


def _fill(texts: list[str], *, room: int) -> list[str]:
    """Texts, with commas between, on as few lines as hold them."""
    lines = [texts[0]]
    for text in texts[1:]:
        if len(lines[-1]) + len(text) + 3 <= room:
            lines[-1] += f", {text}"
        else:
            lines.append(text)
    return lines
