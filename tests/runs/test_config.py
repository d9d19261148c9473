"""Sections, YAML, overrides, precedence, and what a resumed run may change."""

import json

import jsonschema
import pytest

from noisereg.errors import NoiseregError
from noisereg.plugins.registry import registry
from noisereg.reading import parse_yaml, write_yaml
from noisereg.runs.config import (
    Config,
    apply_set,
    complete,
    config_names,
    json_schema,
    layer,
    read_complete,
    read_config,
    resume_difference,
    validate,
)


def full(**values):
    return complete(validate(values), registry())


def test_defaults_are_designs():
    config = full()
    assert (config.noise.name, config.reg, config.process.name) == ("white", [], "ddpm")
    assert (config.data.name, config.denoiser.name, config.task.name) == (
        "digits",
        "auto",
        "unconditional",
    )
    assert config.sample.steps == 100
    tv = full(noise="blue-tv").noise.params
    assert {"form": "sigmoid", "s": 0.0, "e": 3.0, "tau": 0.2, "learn": False}.items() <= tv[
        "gamma"
    ].items()
    assert (tv["transport"], tv["normalize"]) == ("heads", False)
    assert full(reg="isotropy").reg[0].params["weight"] == 0.1


def test_yaml_is_1_2():
    values = parse_yaml("optim: {lr: 1e-4}\nnoise: off\n", "x")
    assert values == {"optim": {"lr": 1e-4}, "noise": "off"}
    assert validate(values).optim.lr == 1e-4


def test_a_complete_configuration_survives_yaml():
    config = full(
        noise="blue-tv:gamma.tau=0.5",
        reg=["isotropy:weight=0.3", "isotropy:mean=sample"],
        train={"clip": None},
    )
    assert validate(parse_yaml(write_yaml(config.dump()), "x")) == config


def test_a_flag_replaces_a_whole_component_and_set_changes_one_key():
    file = {
        "noise": {"name": "blue-tv", "normalize": True},
        "reg": ["isotropy"],
        "train": {"steps": 7, "batch_size": 32},
    }
    config = validate(layer(file, {"noise": "blue-tv", "train": {"steps": 9}}))
    assert config.noise.params == {}
    assert (config.train.steps, config.train.batch_size) == (9, 32)
    assert [r.name for r in config.reg] == ["isotropy"]
    config = validate(
        apply_set(
            config.dump(),
            ["noise.gamma.tau=0.4", "reg.0.weight=0.3", "optim.lr=1e-4", "train.clip=null"],
        )
    )
    assert config.noise.params == {"gamma": {"tau": "0.4"}}  # as text, which the model converts
    assert (config.reg[0].params, config.optim.lr, config.train.clip) == (
        {"weight": "0.3"},
        1e-4,
        None,
    )


def test_none_empties_the_list_of_regularizers():
    assert validate({"reg": "none"}).reg == []
    assert validate({"reg": ["none"]}).reg == []


def test_data_may_be_a_path():
    assert validate({"data": "./pictures"}).data.params == {"path": "./pictures"}
    assert validate({"data": "~/pictures"}).data.name == "folder"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nose": "white"}, "did you mean 'noise'"),
        ({"train": {"step": 3}}, "did you mean 'train.steps'"),
        ({"train": {"steps": 0}}, "train.steps"),
        ({"optim": {"lr": -1}}, "above 0"),
        ({"sample": {"eta": 2}}, "0 ≤ eta ≤ 1"),
        ({"train": {"batch_size": 10, "accumulate": 3}}, "multiple of accumulate"),
        ({"noise": "bleu-tv"}, "did you mean 'blue-tv'"),
        ({"noise": "blue-tv:gama.tau=0.1"}, "no parameter 'gama.tau'; did you mean 'gamma.tau'"),
        ({"noise": "blue-tv:gamma.tau=-1"}, "gamma.tau"),
        ({"reg": "isotropy:weight=-1"}, "weight"),
        ({"train": {"antithetic": True, "times": "batch"}}, "times=batch one for all: give one"),
        ({"reg": "isotropy:mean=bach"}, "expected batch, timestep-bin, sample, "),
        ({"noise": {"nam": "white"}}, "'name'"),
        ({"noise": "none"}, "none"),
        ({"noise": "WHITE"}, "did you mean 'white'"),
        ({"train": {"steps": True}}, "train.steps: expected a number"),
        ({"ema": {"decay": True}}, "ema.decay: expected a number"),
        ({"train": {"clip": True}}, "train.clip: expected a number"),
        ({"train": {"eval_every": True}}, "train.eval_every: expected a number"),
        ({"reg": "isotropy:weight=0.1,weight=0.3"}, "weight stands twice in"),
        ({"data": "folder:path=,size=8"}, "an empty path; expected a file or folder"),
        ({"data": "cifar10:root="}, "an empty path; expected a file or folder"),
        ({"data": "latents:path=x.npz,scale=0"}, "more than 0"),
        ({"train": {"eval": ["fdd"]}}, "no metric is called 'fdd'"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_type(values, said):
    with pytest.raises(NoiseregError) as error:
        full(**values)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "bad", ["noequals", "nosection.x=1", "reg.3.weight=1", "reg.weight=1", "noise.gamma=[1"]
)
def test_set_refuses_what_it_cannot_place(bad):
    with pytest.raises(NoiseregError):
        apply_set({"reg": ["isotropy"]}, [bad])


def test_an_unknown_configuration_is_refused_by_name():
    with pytest.raises(NoiseregError, match="no such file"):
        read_config("no-such-configuration")


def test_a_shipped_configuration_is_found_by_name():
    assert validate(read_config("quickstart")).noise.name == "blue-tv"


def test_broken_yaml_names_the_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\nnoise: [white\n")
    with pytest.raises(NoiseregError, match=r"line \d"):
        read_config(str(path))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"train": {"steps": 9}}, None),
        ({"sample": {"steps": 9}}, None),
        ({"runtime": {"device": "cpu"}}, None),
        ({"data": "fashion-mnist:root=/elsewhere"}, None),
        ({"train": {"batch_size": 64}}, "train.batch_size"),
        ({"noise": "blue"}, "noise was white and is now blue"),
        ({"data": "digits"}, "data was fashion-mnist and is now digits"),
        ({"seed": 5}, "seed was 0 and is now 5"),
        ({"reg": "isotropy"}, "reg was none and is now isotropy"),
        ({"parent": {"path": "runs/first"}}, "`from` was nothing and is now runs/first"),
        ({"optim": {"lr": 0.5}}, "optim.lr"),
    ],
)
def test_what_a_resumed_run_may_change(change, key):
    base = {"data": "fashion-mnist:root=/here"}
    difference = resume_difference(full(**base), full(**layer(base, change)))
    assert difference is None if key is None else difference.startswith(key)


def test_the_schema_knows_every_component():
    schema = json_schema(registry())
    names = {
        o["properties"]["name"]["const"]
        for o in schema["$defs"]["noise"]["anyOf"]
        if "properties" in o
    }
    assert {"white", "blue", "blue-tv"} <= names
    assert Config.model_fields.keys() <= schema["properties"].keys()
    for kind in ("solver", "grid", "metric", "features"):
        assert len(schema["$defs"][kind]["anyOf"]) > 1


@pytest.mark.parametrize("name", config_names())
def test_the_schema_takes_what_is_shipped_and_what_a_run_writes(name):
    validator = jsonschema.Draft202012Validator(json_schema(registry()))
    validator.check_schema(validator.schema)
    values = {k: v for k, v in read_config(name).items() if k != "sweep"}
    validator.validate(values)
    written = full(**values)
    validator.validate(json.loads(json.dumps(written.dump())))


@pytest.mark.parametrize(
    "values",
    [
        {"sample": {"solver": {"name": "huen"}}},
        {"sample": {"grid": {"name": "edm", "rho": "seven"}}},
        {"train": {"eval": ["prdc", {"name": "kd", "subset": 100}]}},
        {"train": {"eval_features": {"name": "pixel"}}},
        {"sample": {"clip": {"percentile": 0.9}}},
    ],
)
def test_the_schema_refuses_what_is_none(values):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, json_schema(registry()))


def test_a_component_within_a_section_is_replaced_whole():
    base = full(sample={"solver": "ddim:eta=0.5", "steps": 7}).dump()
    layered = layer(base, {"sample": {"solver": {"name": "heun"}}})
    assert layered["sample"]["solver"] == {"name": "heun"}
    assert layered["sample"]["steps"] == 7
    layered = layer(base, {"optim": {"name": "adam"}})
    assert layered["optim"] == {**base["optim"], "name": "adam"}


def test_a_runs_configuration_that_was_cut_is_not_read_as_one_with_defaults(tmp_path):
    text = write_yaml(Config(sample={"steps": 7}).dump())
    (tmp_path / "config.yaml").write_text(text)
    assert read_complete(tmp_path / "config.yaml").sample.steps == 7
    (tmp_path / "config.yaml").write_text(text[: text.index("sample:")])
    with pytest.raises(
        NoiseregError, match=r"config\.yaml has no sample, .*runtime.*: it was cut"
    ):
        read_complete(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("train.steps", "expected train={'steps': …}, or `?set`?, which takes train.steps=…"),
        ("noise.gamma.tau", r"expected noise={'gamma\.tau': …}"),
    ],
)
def test_a_dotted_key_is_told_from_an_unknown_one(key: str, said: str) -> None:
    """It is no misspelling of itself."""
    with pytest.raises(NoiseregError, match=said) as error:
        validate({key: 5})
    assert "did you mean" not in str(error.value)
