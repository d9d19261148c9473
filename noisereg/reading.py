"""The one reader of every YAML and JSON file of ours, and of YAML and JSON that a user types.

A file may have been written by somebody else, cut by a full disk or filled with anything, so each
is read under limits: its size, how deep it nests, how much its aliases unfold to, that it is UTF-8
and plain data (text, numbers, true, false, null, lists and mappings), and that no key stands
twice. Whatever is wrong is one :class:`~noisereg.errors.NoiseregError` that names the file.
Imports neither torch nor anything of noisereg but its errors.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from noisereg.errors import NoiseregError

MAX_BYTES = 64 * 2**20
"""Of a file; the largest of ours, a table with its rows, has a few megabytes."""
MAX_DEPTH = 64
"""Of lists and mappings inside each other; a configuration has six."""
MAX_NODES = 200_000
"""Values in YAML once its aliases are unfolded, so that a kilobyte cannot fill the memory."""

Model = TypeVar("Model", bound=BaseModel)


def check_ordinary(path: Path) -> None:
    """
    Raises:
        NoiseregError: for a pipe, a socket or a device, which keeps whoever opens it waiting.
    """
    with contextlib.suppress(OSError, ValueError):  # whoever opens it will say what is wrong
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise NoiseregError(f"{path} is no ordinary file; expected one to read")


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The contents of an ordinary file of at most ``limit`` bytes.

    Raises:
        NoiseregError: if it is missing, a folder, a pipe or a device, too large, or unreadable.
    """
    try:
        about = os.stat(path)  # before it is opened: opening a pipe waits for who writes into it
        if not stat.S_ISREG(about.st_mode):
            raise NoiseregError(f"{path} is no ordinary file; expected one to read")
        with path.open("rb") as file:
            contents = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise NoiseregError(f"{path} cannot be read: {reason(error)}") from None
    if len(contents) > limit:
        raise NoiseregError(
            f"{path} has {about.st_size:,} bytes; expected at most {limit:,}, as files of its "
            "kind have"
        )
    return contents


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """A UTF-8 file's text, without a byte-order mark.

    Raises:
        NoiseregError: as :func:`read_bytes`, and for other encodings.
    """
    contents = read_bytes(path, limit)
    try:
        return contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NoiseregError(
            f"{path} is not UTF-8 text (byte {error.start:,} is 0x{contents[error.start]:02x}); "
            "expected a file saved as UTF-8"
        ) from None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        NoiseregError: as :func:`read_text` and :func:`parse_json`.
    """
    return parse_json(read_text(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        NoiseregError: as :func:`read_text` and :func:`parse_yaml`.
    """
    return parse_yaml(read_text(path), str(path))


def parse_json(text: str, origin: str) -> Any:
    """The value that JSON text holds; ``origin`` says in a message where it came from.

    Raises:
        NoiseregError: for what is no JSON, nests deeper than ``MAX_DEPTH``, or has a key twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise NoiseregError(f"{origin} is empty; expected JSON") from None
        raise NoiseregError(
            f"{origin}, line {error.lineno}: {error.msg[:1].lower()}{error.msg[1:]}"
        ) from None
    except RecursionError:
        raise NoiseregError(f"{origin}: {_TOO_DEEP}") from None
    except ValueError as error:
        raise NoiseregError(f"{origin}: {_number(error)}") from None
    _check_plain(value, origin, MAX_BYTES)
    return value


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """The mapping that YAML 1.2 text holds: ``1e-4`` is a number and ``off`` a word; nothing at
    all is the empty mapping.

    Raises:
        NoiseregError: where the text is no YAML mapping of plain data, with the line.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.composer import Composer
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    class Bounded(Composer):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise RecursionError
            try:
                return super().compose_node(parent, index)
            finally:
                self.depth -= 1

    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = Bounded
    try:
        values = yaml.load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise NoiseregError(f"{origin}, line {line}: {error.problem or 'not YAML'}") from None
    except YAMLError as error:
        raise NoiseregError(f"{origin}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise NoiseregError(f"{origin}: {_TOO_DEEP}") from None
    except (ValueError, OverflowError) as error:  # !!int x, 5,000 digits, the 99th of a month
        raise NoiseregError(f"{origin}: {_number(error)}") from None
    except (LookupError, TypeError, AttributeError) as error:  # !!bool maybe
        raise NoiseregError(f"{origin}: a value does not fit its YAML tag ({error})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise NoiseregError(
            f"{origin}: expected sections such as 'noise:' and 'train:', not a "
            f"{_CALLED.get(type(values), type(values).__name__)}"
        )
    _check_plain(values, origin, MAX_NODES)
    return values


def checked(model: type[Model], values: Any, origin: str) -> Model:
    """``values`` as ``model`` describes a file of that kind.

    Raises:
        NoiseregError: names the file, the key, and what was expected.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        key, complaint = first_complaint(error)
        raise NoiseregError(": ".join(part for part in (origin, key, complaint) if part)) from None


def first_complaint(error: ValidationError) -> tuple[str, str]:
    """The dotted key of pydantic's first complaint, and the complaint in a user's words.

    Of a value that may be one of several things pydantic complains once for each; these are told
    in one: ``expected auto, or a valid number, not 'x'``.
    """
    complaints = error.errors(include_url=False)
    first = complaints[0]
    loc = _place(first["loc"])
    alike = [e for e in complaints if _place(e["loc"]) == loc]
    texts = list(dict.fromkeys(_words(e) for e in alike))
    message = texts[0]
    if len(texts) > 1:
        wanted = [t.removeprefix("expected ") for t in texts if t.startswith("expected ")]
        message = f"expected {', or '.join(wanted)}" if len(wanted) == len(texts) else texts[0]
    given = first["input"]
    shown = isinstance(given, str | int | float)
    return ".".join(map(str, loc)), f"{message}, not {short(given)}" if shown else message


def short(value: Any, width: int = 80) -> str:
    """A value as a message shows it: ``repr``, cut where it is longer than ``width``."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= width else f"{text[: width - 1]}…"


def reason(error: BaseException) -> str:
    """Why a file cannot be read or written, in the system's words where it has any."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


_TOO_DEEP = f"nested more than {MAX_DEPTH} deep; expected a few levels of lists and mappings"
_CALLED = {list: "list", str: "text", int: "number", float: "number", bool: "true or false"}


def _place(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Where a complaint is, without the names pydantic gives to the members of a union."""
    return tuple(
        part
        for part in loc
        if not (isinstance(part, str) and (part in _MEMBERS or re.match(r"[\w-]+\[", part)))
    )


_MEMBERS = ("float", "int", "str", "bool", "constrained-float", "constrained-int")


def _words(complaint: Any) -> str:
    """One complaint, beginning with ``expected`` where pydantic's words are those of a type."""
    kind, message = complaint["type"], complaint["msg"]
    if kind == "literal_error":
        return f"expected {complaint['ctx']['expected'].replace(chr(39), '')}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        bound = complaint["ctx"][name]
        return f"expected {words} {f'{bound:g}' if isinstance(bound, float) else bound}"
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message[:1].lower() + message[1:]


_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
    "multiple_of": ("multiple_of", "a multiple of"),
}
_EXPECTED = {
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "path_type": "a path",
    "missing": "a value",
    "model_type": "a mapping of keys and values",
    "model_attributes_type": "a mapping of keys and values",
}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which no key may stand twice: one of the two would be dropped in
    silence.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return made


class _Twice(ValueError):
    pass


def _number(error: Exception) -> str:
    if isinstance(error, _Twice):
        return f"the key {error.args[0]!r} stands twice; expected it once"
    if "integer string conversion" in str(error):
        return "a number of more than 4,300 digits; expected one of at most 19"
    return f"a value does not fit its YAML tag ({error})"


def _check_plain(value: Any, origin: str, most: int) -> None:
    """That a value holds plain data alone, at most ``most`` values, no deeper than ``MAX_DEPTH``.

    Walks without recursion, and meets what an alias repeats as often as it is repeated.
    """
    waiting: list[tuple[Any, int]] = [(value, 1)]
    met = 0
    while waiting:
        each, depth = waiting.pop()
        met += 1
        if met > most:
            raise NoiseregError(f"{origin}: unfolds to more than {most:,} values")
        if depth > MAX_DEPTH:
            raise NoiseregError(f"{origin}: {_TOO_DEEP}")
        if isinstance(each, Mapping):
            for key, inner in each.items():
                if not isinstance(key, str) and (depth == 1 or not _is_scalar(key)):
                    raise NoiseregError(
                        f"{origin}: {short(key)} is no key; expected a word before each colon"
                    )
                waiting += [(key, depth + 1), (inner, depth + 1)]
        elif isinstance(each, list):
            waiting += [(inner, depth + 1) for inner in each]
        elif isinstance(each, str):
            _check_text(each, origin)
        elif not _is_scalar(each):
            kind = type(each).__name__
            raise NoiseregError(
                f"{origin}: {short(str(each))} is a {kind}; expected text, numbers, lists and "
                "mappings (a date stands in quotes)"
            )
        elif isinstance(each, int) and not isinstance(each, bool) and abs(each) >= 2**1024:
            raise NoiseregError(
                f"{origin}: a number of {math.ceil(abs(each).bit_length() * 0.30103):,} digits; "
                "expected one of at most 19"
            )


def _check_text(text: str, origin: str) -> None:
    """Half a surrogate pair cannot be written as UTF-8, and no path holds a null character."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise NoiseregError(f"{origin}: {short(text)} holds half a surrogate pair; expected text")
    if "\0" in text:
        raise NoiseregError(f"{origin}: {short(text)} holds a null character; expected text")


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def write_yaml(values: Mapping[str, Any]) -> str:
    """YAML 1.2 of plain data, in the order of its keys."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel declares it None
    yaml.allow_unicode = True
    out = io.StringIO()
    yaml.dump(dict(values), out)
    return out.getvalue()
