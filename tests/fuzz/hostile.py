"""Text that a command line, a configuration or a file may hold and that nobody expected."""

from __future__ import annotations

import functools
import string

from hypothesis import strategies as st

from noisereg.cli.flags import flags_of
from noisereg.cli.main import command, leaves
from noisereg.plugins.registry import KINDS, registry
from noisereg.plugins.spec import flatten
from noisereg.plugins.validation import field_names
from noisereg.runs.config import Config

VALUES = (
    "", " ", "0", "-0", "-1", "1", "2", "1.5", "1e-4", "1e400", "nan", ".nan", "inf", "-.inf",
    "9" * 23, "-" + "9" * 23, "9" * 5000, "0x" + "f" * 40, "1_0", "true", "off", "null", "none", "auto",
    "[", "[" * 3000, "]", "{", "}", "[1,1]", "[[1]]", "{a: 1}", '{"a": [1]}', "a: b", "- a", "!!int x",
    "!!bool maybe", "!!set {x}", "!!binary x", "&a [*a]", "*a", "2001-99-99", "2001-01-01", "%YAML 9",
    ".", "..", "./nowhere", "~nobodyatall", "~nobodyatall/x", "s3://bucket/run", "file:///x", "n" * 300,
    "n/" * 2100, "x.png", "x.npz", "x.json", "x.yaml", "x.csv", "a.b", "a..b", ".a", "a." * 400,
    "\ud800", "\x00", "\x1b[31m", "\u202e", "ε×·", "中文", "\n", "\r\n", "\t", "`", "`num=3`", "'", '"',
    "\\", "%s", "{0}", "${HOME}", "$(id)", ",", ":", "=", "==", "+", "A+B", "a=b", "a=b,c=d", "a=b,",
    "noise=white", "reg=none", "--", "-", "--out", "-h", "--help", "0,1", "10,50", "0,x", "-1,5", "1" * 400,
)  # fmt: skip
"""What went wrong once, here or elsewhere, or looks as if it could."""


def values() -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(VALUES), st.text(max_size=12), numbers())


def numbers() -> st.SearchStrategy[str]:
    return st.one_of(
        st.integers(-(2**70), 2**70).map(str), st.floats().map(str), st.integers(-3, 70).map(str)
    )


@st.composite
def mistyped(draw: st.DrawFn, known: st.SearchStrategy[str]) -> str:
    """A known word, in three of four cases as it is, else with one character changed."""
    word = draw(known)
    if not word or draw(st.integers(0, 3)):
        return word
    place = draw(st.integers(0, len(word) - 1))
    return (
        word[:place]
        + draw(st.sampled_from([*string.ascii_lowercase, "", ".", ":", " "]))
        + (word[place + 1 :])
    )


@functools.cache
def components() -> list[tuple[str, str, list[str]]]:
    """(kind, name, keys) of every built-in; what would download something is left out."""
    return [
        (
            entry.kind,
            entry.name,
            [k for k in field_names(entry.component.params) if k != "download"],
        )
        for kind in KINDS
        for entry in registry().entries(kind)
        if entry.name not in DOWNLOADING
    ]


DOWNLOADING = ("inception", "mnist", "fashion-mnist", "cifar10", "cifar100", "svhn", "flowers102",
               "oxford-pets", "celeba", "stl10", "imagenet32")  # fmt: skip


@st.composite
def specs(draw: st.DrawFn) -> str:
    """``name:key=value,…`` of a component of any kind."""
    _, name, keys = draw(st.sampled_from(components()))
    name = draw(mistyped(st.just(name)))
    given = draw(
        st.lists(st.tuples(mistyped(st.sampled_from(keys or ["a"])), values()), max_size=3)
    )
    text = ",".join(f"{key}={value}" for key, value in given)
    return draw(st.sampled_from([f"{name}:{text}" if text else name, name, f"{name}:{text}"]))


@functools.cache
def config_keys() -> list[str]:
    return [*flatten(Config().dump()), *Config.model_fields, "noise.gamma.tau", "reg.0.weight"]


@st.composite
def assignments(draw: st.DrawFn) -> str:
    """``KEY=VALUE`` as ``--set`` takes it."""
    return f"{draw(mistyped(st.sampled_from(config_keys())))}={draw(values())}"


HEAVY = {"check"}
"""Commands that start other processes."""
KEPT_SMALL = {
    "train": ["--dry-run"],
    "sweep": ["--dry-run"],
    "build": ["--size", "4", "--masks", "1", "--jobs", "1"],
    "show": [],
}


@functools.cache
def commands() -> dict[tuple[str, ...], list[tuple[str, bool]]]:
    """The path of each command, and its flags: (text, whether a value follows)."""
    found: dict[tuple[str, ...], list[tuple[str, bool]]] = {}
    for name, inner in command().commands.items():
        below = getattr(inner, "commands", None)
        for leaf in leaves(inner) if below else [inner]:
            if leaf.name not in HEAVY:
                path = (name, leaf.name) if below else (name,)
                found[path] = sorted(set(flags_of(leaf).values()))
    return found


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with flags of its own in any order, each with a spec, an assignment or anything."""
    path = draw(st.sampled_from(sorted(commands())))
    words = list(path)
    for flag, takes_value in draw(st.lists(st.sampled_from(commands()[path]), max_size=4)):
        words.append(draw(mistyped(st.just(flag))))
        if takes_value:
            words.append(draw(st.one_of(specs(), assignments(), values())))
    words += draw(st.lists(values(), max_size=1))
    return [*words, *KEPT_SMALL.get(path[-1], ())] if "--" not in words else words[:2]


plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
"""What JSON can hold."""


@st.composite
def damaged(draw: st.DrawFn, contents: bytes) -> bytes:
    """A file cut, emptied, with a byte changed, or with something put in its middle."""
    place = draw(st.integers(0, max(len(contents) - 1, 0)))
    kind = draw(st.sampled_from(["cut", "change", "insert", "swap"]))
    if kind == "cut":
        return contents[:place]
    if kind == "change":
        return contents[:place] + bytes([draw(st.integers(0, 255))]) + contents[place + 1 :]
    if kind == "swap":
        other = draw(st.integers(0, max(len(contents) - 1, 0)))
        first, last = sorted((place, other))
        return contents[:first] + contents[last:]
    piece = draw(values()).encode("utf-8", "surrogatepass")
    return contents[:place] + piece + contents[place:]
