"""Component specs on the command line."""

import pytest

from noisereg.errors import NoiseregError
from noisereg.plugins.spec import Spec, flatten


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("white", "white", {}),
        ("isotropy:weight=0.1", "isotropy", {"weight": "0.1"}),
        ("unet:channels=64,128,256", "unet", {"channels": "64,128,256"}),
        ("unet:channels=64,128,dropout=0.1", "unet", {"channels": "64,128", "dropout": "0.1"}),
        (
            "blue-tv:gamma.tau=0.1,gamma.form=sigmoid",
            "blue-tv",
            {"gamma": {"tau": "0.1", "form": "sigmoid"}},
        ),
        ("folder:path=/a,b:c=d", "folder", {"path": "/a,b:c=d"}),
        ('blue-tv:{"gamma": {"tau": 0.1}}', "blue-tv", {"gamma": {"tau": 0.1}}),
        ("dist/offset:strength=1", "dist/offset", {"strength": "1"}),
    ],
)
def test_reads(text, name, params):
    assert Spec.parse(text) == Spec(name=name, params=params)


@pytest.mark.parametrize("text", ["", ":a=1", "x:", "x:novalue", "x:{bad json", "x:=1"])
def test_refuses(text):
    with pytest.raises(NoiseregError) as error:
        Spec.parse(text)
    assert "\n" not in str(error.value)


def test_a_mapping_is_a_spec_and_dumps_as_one():
    spec = Spec.model_validate({"name": "blue-tv", "gamma": {"tau": 0.1}})
    assert spec.params == {"gamma": {"tau": 0.1}}
    assert spec.model_dump() == {"name": "blue-tv", "gamma": {"tau": 0.1}}
    assert Spec.model_validate(spec.model_dump()) == spec


def test_flatten_walks_mappings_and_lists_of_mappings():
    assert flatten({"a": {"b": 1}, "c": [{"d": 2}], "e": [1, 2], "f": {}}) == {
        "a.b": 1,
        "c.0.d": 2,
        "e": [1, 2],
        "f": {},
    }
