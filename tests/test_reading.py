"""Whatever a YAML or JSON file holds, it is read as plain data or refused in one line with its
name.
"""

from __future__ import annotations

import os

import pytest
from pydantic import BaseModel, Field

from noisereg import reading
from noisereg.errors import NoiseregError

BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "\n".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{','.join(['*' + chr(97 + k)] * 10)}]" for k in range(8)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: " + "[" * 5000, "nested more than 64 deep"),
        ("a: " + "[" * 1000 + "]" * 1000, "nested more than 64 deep"),
        ("- " * 5000, "nested more than 64 deep"),
        ("a: &a [*a]", "nested more than 64 deep"),
        (BOMB, "unfolds to more than 200,000 values"),
        ("a: " + "9" * 5000, "a number of more than 4,300 digits; expected one of at most 19"),
        ("a: " + "9" * 400, "a number of 400 digits; expected one of at most 19"),
        ("a: 0x" + "f" * 6000, "a number of 7,224 digits"),
        ("a: !!int x", "does not fit its YAML tag"),
        ("a: !!float x", "does not fit its YAML tag"),
        ("a: !!bool maybe", "does not fit its YAML tag ('maybe')"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("a: 2001-01-01", "is a date; expected text, numbers, lists and mappings"),
        ("a: !!set {x}", "is a set; expected text, numbers"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: 1\na: 2", 'line 2: found duplicate key "a"'),
        ("a: {b: 1", "line 1: expected ',' or '}'"),
        ("? [a]\n: 1", "is no key; expected a word before each colon"),
        ("1: 2", "1 is no key"),
        ("- 1", "expected sections such as 'noise:' and 'train:', not a list"),
        ("--- 1\n--- 2", "found another document"),
        ("%YAML 9.9\n---\na: 1", "incompatible YAML document"),
        ("a: \x00", "unacceptable character"),
        ('a: "\\0"', "holds a null character"),
    ],
)
def test_yaml_that_is_not_plain_data_is_one_line(text, said):
    with pytest.raises(NoiseregError) as caught:
        reading.parse_yaml(text, "x.yaml")
    assert str(caught.value).startswith("x.yaml")
    assert said in str(caught.value).replace("401", "400").replace("7,225", "7,224")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_yaml_12_numbers_and_words_are_read_as_such():
    text = "rate: 1e-4\nlog: off\nmerged: &m {a: 1}\nagain: *m\nempty:\n"
    assert reading.parse_yaml(text, "x") == {
        "rate": 1e-4,
        "log": "off",
        "merged": {"a": 1},
        "again": {"a": 1},
        "empty": None,
    }
    assert reading.parse_yaml("", "x") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x.json is empty; expected JSON"),
        ("{", "line 1: expecting property name"),
        ("[" * 100_000, "nested more than 64 deep"),
        ("[" * 90 + "]" * 90, "nested more than 64 deep"),
        ("9" * 5000, "a number of more than 4,300 digits"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice; expected it once"),
        ('["\\ud800"]', "holds half a surrogate pair"),
    ],
)
def test_json_that_is_not_plain_data_is_one_line(text, said):
    with pytest.raises(NoiseregError) as caught:
        reading.parse_json(text, "x.json")
    assert str(caught.value).startswith("x.json")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_utf8_text_is_named_with_the_byte(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"seed: \xff")
    with pytest.raises(NoiseregError, match=r"a\.yaml is not UTF-8 text \(byte 6 is 0xff\)"):
        reading.read_yaml(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xef\xbb\xbfseed: 1")  # an editor's byte-order mark
    assert reading.read_yaml(tmp_path / "b.yaml") == {"seed": 1}


def test_what_is_no_ordinary_file_is_refused_and_hangs_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path, said in (
        (tmp_path / "pipe.json", "is no ordinary file"),
        (tmp_path, "is no ordinary file"),
        (tmp_path / "none", "cannot be read: no such file"),
        (tmp_path / ("n" * 300), "cannot be read: file name too long"),
        (tmp_path / "a\0b", "cannot be read: embedded null byte"),
    ):
        with pytest.raises(NoiseregError, match=said):
            reading.read_json(path)


def test_a_file_larger_than_any_of_its_kind_is_not_read_whole(tmp_path):
    with (tmp_path / "big").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(
        NoiseregError, match=r"has 1,000,000,000,000 bytes; expected at most 1,000"
    ):
        reading.read_bytes(tmp_path / "big", 1000)


class Shape(BaseModel):
    sides: list[int]
    rate: float = Field(1.0, gt=0)


def test_a_file_of_another_shape_names_the_key_and_what_was_expected():
    for values, said in (
        ({}, "x.json: sides: expected a value"),
        ({"sides": 3}, "x.json: sides: expected a list, not 3"),
        ({"sides": ["a"]}, "x.json: sides.0: expected a whole number, not 'a'"),
        ({"sides": [], "rate": 0}, "x.json: rate: expected more than 0, not 0"),
        ([], "x.json: expected a mapping of keys and values"),
    ):
        with pytest.raises(NoiseregError) as caught:
            reading.checked(Shape, values, "x.json")
        assert str(caught.value) == said
