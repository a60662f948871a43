"""Long statements of emitted code on several lines, the way the usual formatter breaks them.

Takes one line of Python without strings that hold brackets, gives lines of at most `WIDTH` columns where its brackets allow it. Most text
is short by construction (`writer` names the parts of long expressions); this is for calls and signatures with many arguments.
"""

from __future__ import annotations

WIDTH = 100
_OPEN, _CLOSE = "([{", ")]}"


def break_lines(source: str) -> str:
    """A module's text with its long statements broken. Docstrings and comments stay as they are."""
    lines: list[str] = []
    quoted = False
    for line in source.split("\n"):
        text = line.lstrip()
        was_quoted, quoted = quoted, quoted ^ (line.count('"""') % 2 == 1)
        if len(line) <= WIDTH or was_quoted or text.startswith(("#", '"""')):
            lines.append(line)
        else:
            lines += broken(text, len(line) - len(text))
    return "\n".join(lines)


def broken(text: str, indent: int) -> list[str]:
    """One statement on several lines: its last bracket opened, arguments on one line where they fit, else an item a line."""
    pad = " " * indent
    code, tail = _without_tail(text)
    if indent + len(text) <= WIDTH or not code.endswith(tuple(_CLOSE)):
        return [pad + text]
    start = _opening(code)
    head, inner, close = code[: start + 1], code[start + 1 : -1], code[-1]
    items = split_items(inner)
    is_subscript = code[start] == "[" and code[start - 1 : start].isidentifier()
    if is_subscript or (len(items) == 1 and inner.endswith(",")):
        return [pad + text]
    one = f"{pad}    {', '.join(items)}"
    is_call = head.endswith("(") and head[-2:-1].isidentifier()
    if is_call and len(one) <= WIDTH and not inner.endswith(","):
        return [pad + head, one, f"{pad}{close}{tail}"]
    is_group = head.endswith("(") and not is_call and len(items) == 1
    comma = "" if is_group else ","
    lines = [line for item in items for line in broken(f"{item}{comma}", indent + 4)]
    return [pad + head, *lines, f"{pad}{close}{tail}"]


def split_items(text: str) -> list[str]:
    """The items of an argument list."""
    items, depth, start = [""], 0, 0
    for position, letter in enumerate(text):
        depth += (letter in _OPEN) - (letter in _CLOSE)
        if letter == "," and depth == 0:
            items[-1] = text[start:position].strip()
            items.append("")
            start = position + 1
    items[-1] = text[start:].strip()
    return [item for item in items if item]


def _without_tail(text: str) -> tuple[str, str]:
    """A statement and what may stand behind its last bracket."""
    for tail in (":", ","):
        if text.endswith(tail):
            return text[:-1], tail
    return text, ""


def _opening(text: str) -> int:
    """Where the bracket opens that closes at the end."""
    depth = 0
    for position in range(len(text) - 1, -1, -1):
        depth += (text[position] in _CLOSE) - (text[position] in _OPEN)
        if depth == 0:
            return position
    return 0
