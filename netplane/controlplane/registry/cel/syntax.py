"""Read the words of a CEL expression: what it costs, which fields it names, and Kubernetes' spellings made plain.

Words are enough for that; the grammar is the library's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_WORD = re.compile(
    r"""(?P<text>[rRbB]{0,2}(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
      |(?P<comment>//[^\n]*)|(?P<space>\s+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<escaped>`[^`\n]*`)
      |(?P<number>[0-9][0-9A-Za-z.]*)|(?P<mark>\.\?|\[\?|&&|\|\||[<>=!]=|.)""",
    re.VERBOSE | re.DOTALL,
)
_MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "map", "filter"})
_RESERVED = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
_PACKAGES = frozenset({"sets", "math", "ip"})
_OPENING, _CLOSING = frozenset({"[?", "[", "(", "{"}), frozenset({"]", ")", "}"})
_ESCAPES = {".": "__dot__", "-": "__dash__", "/": "__slash__", "__": "__underscores__"}
_ESCAPED = re.compile(r"__|[.\-/]")
OPTIONAL = "optional__get"
"""The function that stands for `.?field` and `[?index]`."""
OPTIONAL_LIST = "optional__list"
"""The list of what an optional value holds: of one value or none."""
OPTIONAL_FIRST, OPTIONAL_FLAT = "optional__first", "optional__flat"
"""Back from such a list; the other one of optional values."""
_OPTIONAL_MAPS = {"optMap": OPTIONAL_FIRST, "optFlatMap": OPTIONAL_FLAT}


@dataclass(frozen=True, slots=True)
class Word:
    """One word of an expression."""

    kind: str
    text: str


def words(expression: str) -> list[Word]:
    """Return the words of an expression, without space and comments, and with the macros of newer CELs spelt out."""
    found = (Word(str(match.lastgroup), match.group()) for match in _WORD.finditer(expression))
    return _unfolded([word for word in found if word.kind not in ("space", "comment")])


def _unfolded(found: list[Word]) -> list[Word]:
    """Return an expression with `cel.bind` and `optMap` as comprehensions over one value.

    `cel.bind(x, value, body)` is `[value].map(x, body)[0]`; `optMap` maps a list of what the optional value holds.
    """
    for index in range(len(found) - 1, -1, -1):
        text = found[index].text
        if text == "bind" and [each.text for each in found[index - 2 : index]] == ["cel", "."]:
            first, second, end = _arguments(found, index + 1)
            if end:
                name, value, body = found[index + 2 : first], found[first + 1 : second], found[second + 1 : end]
                unfolded = [*_marks("["), *value, *_marks("] . map ("), *name, *_marks(","), *body, *_marks(") [ 0 ]")]
                found = [*found[: index - 2], *unfolded, *found[end + 1 :]]
        elif text in _OPTIONAL_MAPS and index and found[index - 1].text == ".":
            end = _arguments(found, index + 1)[2]
            if end:
                inner, last = found[index + 1 : end + 1], _OPTIONAL_MAPS[text]
                unfolded = [*_marks(f"{OPTIONAL_LIST} ( ) . map"), *inner, *_marks(f". {last} ( )")]
                found = [*found[:index], *unfolded, *found[end + 1 :]]
    return found


def _marks(text: str) -> list[Word]:
    return [Word("name" if each.isidentifier() else "number" if each == "0" else "mark", each) for each in text.split()]


def _arguments(found: list[Word], index: int) -> tuple[int, int, int]:
    """Return where the first and the second comma of a call stand, and its end; zeros where there are none."""
    commas, depth = [0][:0], 0
    for at in range(index, len(found)):
        text = found[at].text
        depth += (text in _OPENING) - (text in _CLOSING)
        if text == "," and depth == 1:
            commas.append(at)
        if not depth:
            first, second = [*commas, 0, 0][:2]
            return (first, second, at) if text == ")" else (0, 0, 0)
    return 0, 0, 0


def escape(name: str) -> str:
    """Return a property's name as expressions spell it (`x-y` as `x__dash__y`, `namespace` as `__namespace__`)."""
    if name in _RESERVED:
        return f"__{name}__"
    return _ESCAPED.sub(lambda match: _ESCAPES[match.group()], name)


def plain(found: list[Word]) -> str:
    """Return the expression with optional access and quoted names in words that every CEL has."""
    out: list[str] = []
    is_optional, brackets = False, [False][:0]
    index = 0
    while index < len(found):
        word = found[index]
        access = _access(found, index, is_optional=is_optional)
        if access is not None:
            text, is_optional, count = access
            out.append(text)
            index += count
            continue
        if word.text in _OPENING:
            brackets.append(word.text == "[?")
        closes_optional = word.text in _CLOSING and bool(brackets) and brackets.pop() and word.text == "]"
        out.append(_plain_word(word, closes_optional=closes_optional))
        is_optional = closes_optional or (is_optional and (word.text == "." or word.kind == "name"))
        index += 1
    return " ".join(out).replace(" . ", ".").replace(" .", ".")


def _access(found: list[Word], index: int, *, is_optional: bool) -> tuple[str, bool, int] | None:
    """Return what one access by several words is in plain ones, whether it may find nothing, and of how many it is."""
    word = found[index]
    if _is_packaged(found, index):
        return f"{word.text}_{found[index + 2].text}", False, 3
    if word.text == ".?" or (word.text == "." and is_optional and _is_field(found, index)):
        following = found[index + 1] if index + 1 < len(found) else Word("mark", "")
        return f'.{OPTIONAL}("{_name(following)}")', True, 2
    return None


def _plain_word(word: Word, *, closes_optional: bool) -> str:
    if word.text == "[?":
        return f".{OPTIONAL}("
    return ")" if closes_optional else _name(word)


def _is_packaged(found: list[Word], index: int) -> bool:
    """Whether `sets.contains(`, `math.greatest(`, `ip.isCanonical(` begins here."""
    if found[index].text not in _PACKAGES or index + 3 >= len(found) or (index and found[index - 1].text == "."):
        return False
    return found[index + 1].text == "." and found[index + 3].text == "("


def _is_field(found: list[Word], index: int) -> bool:
    """Whether the dot at `index` leads to a field, not to a function."""
    after = found[index + 2] if index + 2 < len(found) else Word("mark", "")
    return after.text != "("


def _name(word: Word) -> str:
    return escape(word.text[1:-1]) if word.kind == "escaped" else word.text


def depth(found: list[Word]) -> int:
    """Return how deep comprehensions stand inside each other."""
    deepest, open_, inside = 0, [False][:0], 0
    for index, word in enumerate(found):
        if word.text in ("(", "[", "{", "[?"):
            is_macro = (
                word.text == "(" and index > 1 and found[index - 1].text in _MACROS and found[index - 2].text == "."
            )
            open_.append(is_macro)
            inside += is_macro
            deepest = max(deepest, inside)
        elif word.text in (")", "]", "}") and open_:
            inside -= open_.pop()
    return deepest


def bound(found: list[Word]) -> frozenset[str]:
    """Return the variables that comprehensions bind."""
    return frozenset(
        found[index + 2].text
        for index, word in enumerate(found[:-2])
        if word.text in _MACROS and found[index + 1].text == "("
    )


def pluses(found: list[Word]) -> int:
    """Return how often values are added: each may make a text longer."""
    return sum(word.text == "+" for word in found)


def chains(found: list[Word], root: str) -> Iterator[tuple[str, ...]]:
    """Yield the fields that are read one after the other from a variable, as (`spec`, `replicas`)."""
    for index, word in enumerate(found):
        if word.text != root or word.kind != "name" or (index and found[index - 1].text in (".", ".?")):
            continue
        steps: list[str] = []
        at = index + 1
        while at + 1 < len(found) and found[at].text in (".", ".?") and found[at + 1].kind in ("name", "escaped"):
            if not _is_field(found, at):
                break
            steps.append(_name(found[at + 1]))
            at += 2
        if steps:
            yield tuple(steps)


def names(found: list[Word]) -> frozenset[str]:
    """Return the names that stand for variables, functions' names among them."""
    return frozenset(
        word.text
        for index, word in enumerate(found)
        if word.kind == "name" and not (index and found[index - 1].text in (".", ".?"))
    )
