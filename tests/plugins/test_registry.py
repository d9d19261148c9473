"""Discovery, isolation, conflicts, policy and --plugin: whatever one plugin does, the
others work.
"""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import textwrap
from textwrap import dedent

import pytest
import torch
from fake_packages import Packages, good

from noisereg.api import (
    API_VERSION,
    Component,
    Context,
    Field,
    Noise,
    Params,
    Regularizer,
    RegularizerParams,
)
from noisereg.errors import NoiseregError
from noisereg.plugins import trust
from noisereg.plugins.registry import BASES, HOOKS, KINDS, Policy, Registry, registry, reset
from noisereg.runs.config import complete, load_plugins, validate


@pytest.fixture
def packages(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    installed = Packages(folder)
    yield installed
    installed.forget()
    reset()


@pytest.fixture(autouse=True)
def trusted(tmp_path_factory, monkeypatch):
    """A user who has run no plugin yet; the file of those that are trusted."""
    folder = tmp_path_factory.mktemp("settings")
    monkeypatch.setenv("NOISEREG_CONFIG", str(folder))
    return folder / "trusted-plugins.txt"


def plugin(found: Registry, name: str):
    return next(p for p in found.plugins if p.name == name)


def refusal(found: Registry, name: str, kind: str = "noise") -> str:
    with pytest.raises(NoiseregError) as error:
        found.find(kind, name)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(path, code):
    path.write_text(textwrap.dedent(code))
    return path


# What works


def test_built_ins_are_torch_free_and_of_every_kind():
    code = (
        "import json, sys; from noisereg.plugins.registry import Registry, Policy; r = "
        "Registry(Policy(entry_points=False)); "
        "print(json.dumps([sorted({e.kind for e in r.entries()}), 'torch' in sys.modules, "
        "r.plugins[0].status]))"
    )
    kinds, torch, status = json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    )
    assert kinds == sorted(KINDS)
    assert not torch
    assert status == "ok"


def test_an_installed_plugin_is_found_by_short_and_qualified_name_and_built(packages):
    packages.install("my-noise", good("mine"))
    found = Registry()
    assert (
        found.find("noise", "mine")
        is found.find("noise", "my-noise/mine")
        is found.find("noise", "my_noise/mine")
    )
    assert found.find("noise", "mine").recorded == "my-noise/mine"
    assert type(found.build("noise", "mine", {}, Context(shape=(1, 2, 2)))).__name__ == "Plain"
    assert found.status(found.find("noise", "mine")) == ("ok", "")
    assert plugin(found, "my-noise").seconds > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_hook_registers_components_of_its_kind(packages, kind):
    params, base = "RegularizerParams" if kind == "regularizer" else "Params", BASES[kind].__name__
    packages.install(
        "any-kind",
        f"""
        from noisereg.api import {base}, Component, {params}, hookimpl

        class Thing({base}):
            def __init__(self, params, ctx):
                self.shape = ctx.shape

        class Other:
            def __init__(self, params, ctx):
                pass

        @hookimpl
        def {HOOKS[kind]}():
            for name, impl in (("thing", Thing), ("made", "any_kind:Thing"), ("other", Other)):
                yield Component(name=name, impl=impl, params={params})
        """,
    )
    found = Registry()
    for name in ("any-kind/thing", "any-kind/made"):
        assert found.build(kind, name, {}, Context(shape=(3,))).shape == (3,)
    with pytest.raises(NoiseregError, match=f"Other, which is no {base}; expected a class that"):
        found.build(kind, "any-kind/other", {}, Context(shape=(3,)))


def test_after_uninstalling_the_name_is_unknown_with_a_hint(packages):
    packages.install("my-noise", good("mine"))
    Registry().find("noise", "mine")
    packages.uninstall("my-noise")
    found = Registry()
    assert "pip install" in refusal(found, "mine")
    assert "the package 'my-noise' is not installed; pip install it" in refusal(
        found, "my-noise/mine"
    )


def test_two_entry_points_for_one_module_are_one_plugin(packages):
    packages.install("my-noise", good("mine"))
    packages.install("same-again", "", entry="my_noise")
    found = Registry()
    assert [e.qualified for e in found.entries("noise") if e.name == "mine"] == ["my-noise/mine"]


# What does not work stops nothing else. Each case: the plugin's code, and what its reason says.

BROKEN = {
    "raises on import": ("x = {}['no such key']", "KeyError: 'no such key' (bad.py, line 1)"),
    "raises what is no Exception": (
        "class Odd(BaseException): ...\nraise Odd('odd')",
        "Odd: odd (bad.py, line 2)",
    ),
    "has a syntax error": ("def f(:\n    pass", "SyntaxError: invalid syntax (bad.py, line 1)"),
    "calls sys.exit": ("import sys\nsys.exit(3)", "SystemExit: 3 (bad.py, line 2)"),
    "imports what is not there": (
        "import not_a_module_of_anyones",
        "ModuleNotFoundError: No module named 'not_a_module_of_anyones' (bad.py, line 1)",
    ),
    "misspells a hook": (
        "from noisereg.api import hookimpl\n@hookimpl\ndef noisereg_noise():\n    return []",
        "no hook is called 'noisereg_noise'; did you mean 'noisereg_noises'?",
    ),
    "misspells a hook's prefix": (
        "from noisereg.api import hookimpl\n@hookimpl\ndef noisreg_noises():\n    return []",
        "no hook is called 'noisreg_noises'; did you mean 'noisereg_noises'?",
    ),
    "forgets the mark": (
        "def noisereg_noises():\n    return []",
        "noisereg_noises is not marked; put @noisereg.api.hookimpl above it",
    ),
    "has a hook with an argument": (
        "from noisereg.api import hookimpl\n@hookimpl\ndef noisereg_noises(config):\n    return "
        "[]",
        "Argument(s) {'config'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "has no hook": (
        "x = 1",
        "bad implements no hook; expected a function such as noisereg_noises",
    ),
    "returns None from a hook": (
        "from noisereg.api import hookimpl\n@hookimpl\ndef noisereg_noises():\n    return None",
        "noisereg_noises must yield Components; it returned NoneType",
    ),
    "returns one Component": (
        "from noisereg.api import *\n@hookimpl\ndef noisereg_noises():\n    return "
        "Component(name='x', impl='a:B')",
        "noisereg_noises must yield Components; it returned Component",
    ),
    "yields a class": (
        "from noisereg.api import *\n@hookimpl\ndef noisereg_noises():\n    yield Noise",
        "noisereg_noises must yield Components; it yielded type",
    ),
    "raises in a hook": (
        "from noisereg.api import *\n@hookimpl\ndef noisereg_noises():\n    yield "
        "Component(name='x', impl='a:B')\n    1 / 0",
        "ZeroDivisionError: division by zero (bad.py, line 5)",
    ),
    "gives a regularizer params without a weight": (
        "from noisereg.api import *\n@hookimpl\ndef noisereg_regularizers():\n    yield "
        "Component(name='x', impl='a:B')",
        "x: a regularizer's params must extend noisereg.api.RegularizerParams",
    ),
    "uses a name that is none": (
        "from noisereg.api import *\n@hookimpl\ndef noisereg_noises():\n    yield "
        "Component(name='My Noise', impl='a:B')",
        "a component cannot be called 'My Noise': expected [a-z][a-z0-9-]*, other than 'none' and "
        "'auto'",
    ),
    "gives an impl that is none": (
        "from noisereg.api import *\n@hookimpl\ndef noisereg_noises():\n    yield "
        "Component(name='x', impl='my.module')",
        "x: impl must be 'pkg.module:Class' or a class, not 'my.module'",
    ),
    "gives one name to two": (
        "from noisereg.api import *\n@hookimpl\ndef noisereg_noises():\n"
        "    yield Component(name='x', impl='a:B')\n    yield Component(name='x', impl='a:C')",
        "there is already a noise bad/x; give one of them another name",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_plugin_that(packages, capsys, case):
    code, reason = BROKEN[case]
    packages.install("bad", code)
    packages.install("fine", good("mine"))
    found = Registry()
    # one line on stderr, and the rest of the tool works
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("noisereg: warning: the plugin bad (bad) is broken and left out: ")
    assert {e.name for e in found.entries("noise")} >= {"white", "mine"}
    # the list says what is wrong, and asking for it gives the cause
    assert plugin(found, "bad").status == "broken"
    assert reason in plugin(found, "bad").reason
    assert plugin(found, "bad").entries == []
    for name in ("bad", "bad/x"):
        assert reason in refusal(found, name)
    # and nobody else is blamed on it
    assert "bad" not in refusal(found, "some-name-that-nobody-has")


def test_one_warning_a_run_however_many_ranks(packages, capsys, monkeypatch):
    packages.install("bad", "1 / 0")
    monkeypatch.setenv("RANK", "1")
    Registry()
    assert capsys.readouterr().err == ""


def test_a_component_for_another_api_version_is_refused_with_both_numbers(packages):
    packages.install("newer", good("mine", api=API_VERSION + 1))
    found = Registry()
    (entry,) = [e for e in found.entries("noise") if e.name == "mine"]
    assert found.status(entry)[0] == "incompatible"
    assert refusal(found, "mine") == (
        f"newer/mine is built for plugin API {API_VERSION + 1} and this noisereg has "
        f"{API_VERSION}; "
        f"install a version of newer for API {API_VERSION}"
    )
    # and it takes nobody's name
    packages.install("usable", good("mine"))
    assert Registry().find("noise", "mine").distribution == "usable"


def test_a_built_in_keeps_its_name_and_the_plugin_is_had_by_its_full_name(packages, capsys):
    packages.install("replacer", good("white"))
    found = Registry()
    assert found.find("noise", "white").distribution == "noisereg"
    found.find("noise", "white")
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "noisereg: note: white is the built-in noise; for the plugin's write replacer/white"
    ]
    theirs = found.find("noise", "replacer/white")
    assert theirs.distribution == "replacer"
    assert found.status(theirs) == (
        "conflict",
        "the built-in keeps the short name; write replacer/white",
    )
    assert found.status(found.find("noise", "white")) == ("ok", "")


def test_two_plugins_with_one_name_are_both_had_by_their_full_names_only(packages):
    packages.install("first", good("mine"))
    packages.install("second", good("mine"))
    found = Registry()
    assert (
        refusal(found, "mine")
        == "two noise components are called 'mine': write first/mine or second/mine"
    )
    for name in ("first/mine", "second/mine"):
        status, reason = found.status(found.find("noise", name))
        assert status == "conflict"
        assert reason.endswith(f"write {name}")


def test_importing_torch_makes_a_plugin_slow_whoever_imported_it_first(packages):
    packages.install("slow-one", "import torch\n" + textwrap.dedent(good("slow-one")))
    packages.install("slow-two", "from torch import Tensor\n" + textwrap.dedent(good("slow-two")))
    packages.install("quick", good("quick"))
    code = (
        f"import sys, json; sys.path.insert(0, {str(packages.folder)!r}); from "
        "noisereg.plugins.registry import Registry; "
        "print(json.dumps({p.name: p.status for p in Registry().plugins}))"
    )
    status = json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    )
    assert (status["slow-one"], status["slow-two"], status["quick"]) == ("slow", "slow", "ok")


def test_what_a_plugin_prints_does_not_reach_stdout(packages, capsys):
    packages.install("chatty", "print('hello')\n" + textwrap.dedent(good("mine")))
    Registry()
    out, err = capsys.readouterr()
    assert out == ""
    assert "hello" in err


def test_a_class_that_cannot_be_imported_or_built_gives_its_cause(packages):
    packages.install(
        "lazy",
        """
        from noisereg.api import Component, hookimpl

        class Raises:
            def __init__(self, params, ctx):
                raise RuntimeError("no such file")

        @hookimpl
        def noisereg_noises():
            yield Component(name="gone", impl="lazy.nothing:Here")
            yield Component(name="typo", impl="lazy:Rases")
            yield Component(name="raises", impl="lazy:Raises")
            yield Component(name="number", impl="lazy:__doc__")
        """,
    )
    found = Registry()
    for name, cause in {
        "gone": "lazy/gone cannot be imported from 'lazy.nothing:Here': ModuleNotFoundError",
        "typo": "lazy/typo cannot be imported from 'lazy:Rases': AttributeError",
        "raises": "lazy/raises could not be built: RuntimeError: no such file (lazy.py, line 6)",
        "number": "lazy/number: 'lazy:__doc__' is NoneType and no class",
    }.items():
        with pytest.raises(NoiseregError) as error:
            found.build("noise", name, {}, Context())
        assert str(error.value).startswith(cause)


# Policy


def test_none_block_allow_and_strict(packages, monkeypatch, capsys):
    packages.install("one", good("first"))
    packages.install("two", good("second"))

    def names(**policy):
        return {e.name for e in Registry(Policy(**policy)).entries("noise")} & {"first", "second"}

    assert names() == {"first", "second"}
    assert names(entry_points=False) == set()
    assert names(block=("one",)) == {"second"}
    assert names(allow=("one",)) == {"first"}
    assert "the plugin one (one) is blocked: blocked by NOISEREG_BLOCK" in refusal(
        Registry(Policy(block=("one",))), "one"
    )
    assert "the plugin two (two) is blocked: not in NOISEREG_ALLOW" in refusal(
        Registry(Policy(allow=("one",))), "two/second"
    )
    assert "switched off (no_plugins)" in refusal(Registry(Policy(entry_points=False)), "first")

    packages.install("three", good("white"))
    packages.install("four", good("fourth", api=99))
    packages.install("five", "1 / 0")
    Registry()
    for block, status in {
        "three,four": "the plugin five (five) is broken: ZeroDivisionError",
        "three,five": "the noise four/fourth is incompatible: built for plugin API 99",
        "four,five": "the noise three/white is conflict: the built-in keeps the short name",
    }.items():
        monkeypatch.setenv("NOISEREG_BLOCK", block)
        monkeypatch.setenv("NOISEREG_STRICT", "1")
        with pytest.raises(NoiseregError, match="NOISEREG_STRICT is set") as error:
            Registry(Policy.from_environment())
        assert str(error.value).startswith(status)
    monkeypatch.setenv("NOISEREG_BLOCK", "three, four, five")
    assert Registry(Policy.from_environment()).problems() == []


def test_the_environment_reads_as_documented():
    env = {
        "NOISEREG_NO_PLUGINS": "1",
        "NOISEREG_ALLOW": "a, b",
        "NOISEREG_BLOCK": "c",
        "NOISEREG_STRICT": "1",
    }
    assert Policy.from_environment(env) == Policy(False, False, ("a", "b"), ("c",), True)
    assert (
        Policy.from_environment({"NOISEREG_NO_PLUGINS": "0", "NOISEREG_STRICT": "0"}) == Policy()
    )
    assert Policy.from_environment({}) == Policy()


# Unknown names


def test_an_unknown_name_gets_the_nearest_one_or_the_kind_that_has_it():
    found = registry()
    assert (
        refusal(found, "wite")
        == "no noise is called 'wite'; did you mean 'white'? (noisereg plugins list --kind noise)"
    )
    assert refusal(found, "isotropy").startswith(
        "no noise is called 'isotropy'; isotropy is a regularizer"
    )
    assert "did you mean 'white'" in refusal(found, "noisereg/wite")
    assert "registered in a Python session" in refusal(found, "session/x")
    assert "it came with a plugin=file: give that again" in refusal(found, "file/x")


def test_a_misspelt_name_of_a_files_gets_the_nearest_one(tmp_path):
    write(tmp_path / "mine.py", good("mine"))
    found = Registry()
    found.load(str(tmp_path / "mine.py"))
    (entry,) = [e for e in found.entries("noise") if e.distribution == "file"]
    assert f"did you mean '{entry.qualified}'" in refusal(found, f"{entry.qualified}x")
    assert f"there are: {entry.qualified}" in refusal(found, "file/quite-another-thing")


def test_a_wrong_parameter_names_the_nearest_one():
    found = registry()
    with pytest.raises(NoiseregError) as error:
        found.params(found.find("noise", "blue-tv"), {"gama": {"tau": 1}})
    assert str(error.value) == (
        "blue-tv has no parameter 'gama.tau'; did you mean 'gamma.tau'? (noisereg plugins show "
        "blue-tv)"
    )


def test_a_broken_plugin_is_named_where_its_own_name_fits_the_one_asked_for(packages):
    packages.install("noisereg-offset", "1 / 0")
    found = Registry()
    for name in ("offset", "noisereg-offset", "noisereg_offset/pyramid"):
        assert "the plugin noisereg-offset (noisereg-offset) is broken: Zero" in refusal(
            found, name
        )
    for name in ("pyramid", "wite", "offsets", "other/offset"):
        assert "ZeroDivisionError" not in refusal(found, name)


@pytest.mark.parametrize("name", ["d/real", "photos/cats/tabby", "./x", "../y", "~/z", "a/b.zip"])
def test_nobody_is_advised_to_install_a_path(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = Registry()
    with pytest.raises(NoiseregError) as error:
        found.find("dataset", name)
    assert "pip" not in str(error.value)
    wanted = f"there is no {name}" if name[0] in "./~" else "a path begins with ./, / or ~"
    assert wanted in str(error.value)
    (tmp_path / "d/real").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    assert "pip" not in refusal(found, "d/real")  # of whatever kind, if there is such a path
    assert "pip" not in refusal(found, "photos")


# --plugin and NOISEREG_PLUGINS


def test_a_file_is_a_plugin_and_is_recorded_by_path_and_hash(tmp_path, monkeypatch):
    file = write(tmp_path / "mine.py", good("mine"))
    monkeypatch.chdir(tmp_path)
    found = Registry()
    values = load_plugins(found, {}, ["./mine.py"])
    (record,) = values["plugins"]
    assert record["source"] == str(file)
    assert len(record["sha256"]) == 64
    assert found.find("noise", "mine").recorded == "file/mine"
    # another process, started elsewhere
    monkeypatch.chdir("/")
    again = Registry()
    again.load_recorded(**record)
    assert again.find("noise", "file/mine")


def test_a_changed_file_is_refused_with_what_to_type_and_used_if_that_is_typed(tmp_path, capsys):
    file = write(tmp_path / "mine.py", good("mine"))
    record = load_plugins(Registry(), {}, [str(file)])["plugins"][0]
    write(file, good("other"))
    with pytest.raises(NoiseregError) as error:
        Registry().load_recorded(**record)
    assert f"{file} has changed since the configuration recorded it" in str(error.value)
    assert f"give plugin={file} to use it as it is now" in str(error.value)
    found = Registry()
    values = load_plugins(found, {"plugins": [record]}, [str(file)])
    assert len(values["plugins"]) == 1
    assert values["plugins"][0]["sha256"] != record["sha256"]
    found.load_recorded(**record)
    said = f"note: the run's plugin {file} is not as it was recorded; {file} is used, as given"
    assert capsys.readouterr().err.splitlines() == [f"noisereg: {said}"]
    assert {e.name for e in found.entries("noise")} >= {"other"}
    assert "mine" not in {e.name for e in found.entries("noise")}


def test_a_file_that_has_moved_is_found_where_the_user_says_it_is(tmp_path):
    file = write(tmp_path / "mine.py", good("mine"))
    record = load_plugins(Registry(), {}, [str(file)])["plugins"][0]
    (tmp_path / "new").mkdir()
    moved = file.rename(tmp_path / "new/mine.py")
    with pytest.raises(
        NoiseregError, match=r"is not there; give it where it is now: plugin=PATH/mine\.py"
    ):
        Registry().load_recorded(**record)
    found = Registry()
    assert load_plugins(found, {"plugins": [record]}, [str(moved)])["plugins"] == [
        {"source": str(moved), "sha256": record["sha256"]}
    ]


def test_a_plugin_of_the_same_name_does_not_stand_for_one_that_is_as_recorded(tmp_path):
    """In a notebook: two runs, each with a mine.py of its own."""
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(write(tmp_path / folder / "mine.py", good(f"of-{folder}")))
    record = load_plugins(Registry(), {}, [str(files[1])])["plugins"][0]
    found = Registry()
    found.load(str(files[0]))
    assert found.load_recorded(**record).source == str(files[1])
    assert {"of-a", "of-b"} <= {e.name for e in found.entries("noise")}


@pytest.mark.parametrize("recorded", ["its hash", "no hash"])
@pytest.mark.parametrize("form", ["absolute", "relative", "home", "link", "module"])
def test_what_a_file_names_is_executed_only_if_the_user_has_run_it(
    form, recorded, tmp_path, monkeypatch, trusted
):
    proof = tmp_path / "proof"
    file = write(tmp_path / "theirs.py", f"open({str(proof)!r}, 'w')\n{dedent(good('mine'))}")
    link = tmp_path / "link.py"
    link.symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    source = {
        "absolute": str(file),
        "relative": "./theirs.py",
        "home": "~/theirs.py",
        "link": str(link),
        "module": "theirs",
    }[form]
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    record = (source, sha256 if recorded == "its hash" else "")
    with pytest.raises(NoiseregError) as error:
        Registry().load_recorded(*record, "a/config.yaml")
    assert not proof.exists()
    named = "theirs" if form == "module" else str(file)
    assert f"a/config.yaml names the plugin {named} (SHA-256 {sha256})" in str(error.value)
    assert f"plugin={named}, or type noisereg plugins trust {named}" in str(error.value)
    Registry().load(source)  # the user's word
    proof.unlink()
    sys.modules.pop("theirs", None)
    assert f"{sha256}  {file}" in trusted.read_text().split("\n")
    assert Registry().load_recorded(*record).status == "ok"
    assert proof.exists()
    sys.modules.pop("theirs", None)


def test_code_of_a_file_that_is_trusted_is_not_trusted_elsewhere(tmp_path, capsys):
    """Beside it may lie what it imports: the user's own copy is taken."""
    for folder in ("own", "theirs"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "mine.py", good("mine"))
    Registry().load(str(tmp_path / "own/mine.py"))
    theirs = tmp_path / "theirs/mine.py"
    sha256 = hashlib.sha256(theirs.read_bytes()).hexdigest()
    assert Registry().load_recorded(str(theirs), sha256).source == str(tmp_path / "own/mine.py")
    assert f"your own {tmp_path / 'own/mine.py'} is used" in capsys.readouterr().err
    (tmp_path / "own/mine.py").unlink()
    with pytest.raises(NoiseregError, match="which you have not run before"):
        Registry().load_recorded(str(theirs), sha256)


def test_a_module_is_trusted_only_with_all_that_importing_it_executes(tmp_path, monkeypatch):
    write(tmp_path / "mine.py", good("mine"))
    (tmp_path / "ns/deep").mkdir(parents=True)
    write(tmp_path / "ns/deep/mine.py", good("mine"))
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").touch()
    write(tmp_path / "pack/noises.py", good("mine"))
    monkeypatch.syspath_prepend(str(tmp_path))
    Registry().load("pack.noises")
    Packages(tmp_path).forget()
    (tmp_path / "pack/__init__.py").write_text("raise SystemExit('executed')")
    importlib.invalidate_caches()
    for module in ("pack.noises", "ns.deep.mine", "sys", "antigravity", "no.such"):
        with pytest.raises(NoiseregError, match="which you have not run before"):
            Registry().load_recorded(module, "")


def test_a_store_that_others_may_write_is_not_believed(tmp_path, trusted, capsys):
    file = write(tmp_path / "mine.py", good("mine"))
    Registry().load(str(file))
    Registry().load_recorded(str(file), "")
    for path, mode in ((trusted, 0o666), (trusted, 0o620), (trusted.parent, 0o777)):
        before = path.stat().st_mode
        path.chmod(mode)
        with pytest.raises(NoiseregError, match="which you have not run before"):
            Registry().load_recorded(str(file), "")
        path.chmod(before)
    Registry().load_recorded(str(file), "")
    assert "is not believed: every user may write into it" in capsys.readouterr().err


def test_where_the_store_cannot_be_written_a_sweep_still_passes_it_on(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("NOISEREG_CONFIG", str(write(tmp_path / "file", "")))
    monkeypatch.setattr(trust, "_unwritten", set())
    file = write(tmp_path / "mine.py", good("mine"))
    Registry().load(str(file))
    assert "later commands will ask for its plugins again" in capsys.readouterr().err
    passed_on = trust.passed_on()
    monkeypatch.setattr(trust, "_unwritten", set())
    with pytest.raises(NoiseregError, match="which you have not run before"):
        Registry().load_recorded(str(file), "")
    for name, value in passed_on.items():
        monkeypatch.setenv(name, value)
    assert Registry().load_recorded(str(file), "").status == "ok"


def test_no_plugins_means_none(tmp_path):
    file = write(tmp_path / "mine.py", good("mine"))
    record = load_plugins(Registry(), {}, [str(file)])["plugins"][0]
    none = Registry(Policy.from_environment({"NOISEREG_NO_PLUGINS": "1"}))
    with pytest.raises(NoiseregError, match="expected one of them"):
        none.load(str(file))
    # the record stays, so that a run that goes on without it does not forget it
    assert load_plugins(none, {"plugins": [record]})["plugins"] == [record]
    assert "mine" not in {e.name for e in none.entries("noise")}
    assert f"it came with the plugin {file}, and no_plugins loads none" in refusal(
        none, "file/mine"
    )


@pytest.mark.parametrize("bad", ["~nobody/x.py", "a\0b.py", ".", "fifo.py", "/dev/zero"])
def test_a_path_that_is_no_file_is_refused_in_one_line(bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.py")
    reference = bad if bad != "." else "./."
    for load in (Registry().load, lambda source: Registry().load_recorded(source, "")):
        with pytest.raises(NoiseregError):
            load(reference)


@pytest.mark.parametrize(
    ("inside", "signs"),
    [
        ("run/samples", ("run/config.yaml", "run/environment.json")),
        ("run", ("run/config.yaml", "run/status.json")),
        ("run/cells", ("run/sweep.yaml", "run/cells/a.yaml")),
    ],
)
def test_nothing_inside_a_run_or_a_sweep_is_executed(inside, signs, tmp_path, monkeypatch):
    (tmp_path / inside).mkdir(parents=True)
    for sign in signs:
        (tmp_path / sign).touch()
    evil = write(tmp_path / inside / "evil.py", "raise SystemExit('executed')")
    with pytest.raises(NoiseregError, match="nothing in one is executed"):
        Registry().load(str(evil))
    (tmp_path / "run/__init__.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("run", "run.evil"):
        with pytest.raises(NoiseregError) as error:
            Registry().load(module)
        assert "executed')" not in str(error.value)
        assert "SystemExit" not in str(error.value)


def test_what_is_hashed_is_what_is_executed(tmp_path):
    """No stale bytecode: an edit of the same size within the same second counts."""
    file = tmp_path / "mine.py"
    for name in ("aaaa", "bbbb"):
        write(file, good(name))
        found = Registry()
        found.load(str(file))
        assert found.find("noise", name)
    assert not (tmp_path / "__pycache__").exists()


def test_a_notebook_may_edit_its_file_and_load_it_again(tmp_path):
    found = Registry()
    file = write(tmp_path / "mine.py", "1 / 0")
    for _ in range(2):
        with pytest.raises(NoiseregError, match="is broken: ZeroDivisionError"):
            found.load(str(file))
    for name in ("first", "second"):
        write(file, good(name))
        found.load(str(file))
        found.load(str(file))
        assert found.find("noise", name)
    assert "first" not in {e.name for e in found.entries("noise")}
    assert len([p for p in found.plugins if p.source == str(file)]) == 1


def test_two_files_cannot_bring_the_same_name(tmp_path):
    found = Registry()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / f"{folder}.py", good("mine"))
    found.load(str(tmp_path / "a/a.py"))
    with pytest.raises(NoiseregError, match="there is already a noise file/mine"):
        found.load(str(tmp_path / "b/b.py"))


def test_a_module_is_a_plugin_and_is_recorded_by_name_and_hash(tmp_path, monkeypatch):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").touch()
    file = write(tmp_path / "pack/noises.py", good("mine"))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = Registry()
    (record,) = load_plugins(found, {}, ["pack.noises"])["plugins"]
    assert record["source"] == "pack.noises"
    assert found.find("noise", "module/mine")
    assert Registry().load_recorded(**record).status == "ok"
    write(file, good("other"))
    with pytest.raises(NoiseregError, match=r"pack\.noises has changed since"):
        Registry().load_recorded(**record)
    Packages(tmp_path).forget()


def test_a_module_that_is_not_there_may_be_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.py", good("mine"))
    with pytest.raises(NoiseregError, match=r"did you mean the file: plugin=\./mine\.py"):
        Registry().load("mine")
    with pytest.raises(
        NoiseregError, match="No such file or directory; expected a Python file or a module's name"
    ):
        Registry().load("./other.py")


def test_an_installed_plugin_given_again_is_the_same_one(packages):
    packages.install("my-noise", good("mine"))
    found = Registry()
    assert load_plugins(found, {}, ["my_noise"])["plugins"] == []
    assert found.find("noise", "mine").distribution == "my-noise"


def test_plugins_of_the_environment_are_recorded_when_used_and_checked_like_all_others(
    tmp_path, monkeypatch
):
    file = write(tmp_path / "mine.py", good("mine"))
    unused = write(tmp_path / "unused.py", good("unused"))
    monkeypatch.setenv("NOISEREG_PLUGINS", f"{file},{unused}")
    reset()
    config = complete(validate({"noise": "mine"}), registry())
    assert [r.source for r in config.plugins] == [str(file)]
    write(file, good("mine") + "\n")
    reset()
    with pytest.raises(NoiseregError, match="has changed since the configuration recorded it"):
        registry().load_recorded(**config.plugins[0].model_dump())
    monkeypatch.setenv("NOISEREG_NO_PLUGINS", "1")
    reset()
    assert "mine" not in {e.name for e in registry().entries("noise")}
    monkeypatch.delenv("NOISEREG_NO_PLUGINS")
    monkeypatch.setenv("NOISEREG_PLUGINS", "./not-there.py")
    reset()
    with pytest.raises(
        NoiseregError, match=r"NOISEREG_PLUGINS: plugin=\./not-there\.py: No such file"
    ):
        registry()
    monkeypatch.delenv("NOISEREG_PLUGINS")
    reset()


def test_a_file_may_be_blocked(tmp_path):
    file = write(tmp_path / "mine.py", good("mine"))
    with pytest.raises(NoiseregError, match="is blocked by NOISEREG_BLOCK"):
        Registry(Policy(block=("mine",))).load(str(file))


# In a notebook


class Smooth(Regularizer):
    def __init__(self, params, ctx):
        pass


def test_register_tells_the_kind_and_the_last_one_counts():
    class Mine(Noise):
        def __init__(self, params, ctx):
            self.params = params

    class MineParams(Params):
        k: int = Field(1, ge=1)

    found = Registry()
    found.register(Component(name="mine", impl=Mine))
    found.register(Component(name="mine", impl=Mine, params=MineParams))
    assert found.build("noise", "mine", {"k": "3"}, Context()).params.k == 3
    assert found.find("noise", "session/mine").recorded == "session/mine"
    found.register(Component(name="smooth", impl=Smooth, params=RegularizerParams))
    with pytest.raises(NoiseregError, match="must extend"):
        found.register(Component(name="smooth", impl=Smooth, params=MineParams))
    assert isinstance(found.build("regularizer", "smooth", {}, Context()), Smooth)
    with pytest.raises(NoiseregError, match="cannot tell its kind"):
        found.register(Component(name="thing", impl=dict))
    with pytest.raises(NoiseregError, match="'white' is a built-in noise"):
        found.register(Component(name="white", impl=Mine))


# What a class forgets


class ParameterAlone(Noise):
    def __init__(self, params, ctx):
        self.scale = torch.nn.Parameter(torch.ones(()))


class BasesTurned(Noise, torch.nn.Module):
    def __init__(self, params, ctx):
        self.scale = torch.nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(
    ("implementation", "said"),
    [
        (ParameterAlone, "is no torch.nn.Module: it would not be trained"),
        (BasesTurned, r"expected class BasesTurned\(torch.nn.Module, Noise\), in this order"),
    ],
)
def test_a_parameter_that_nobody_would_train_is_refused(implementation, said):
    found = Registry(Policy(entry_points=False))
    found.register(Component(name="odd", impl=implementation), "noise")
    with pytest.raises(NoiseregError, match=said):
        found.build("noise", "session/odd", {}, Context(shape=(1, 8, 8)))


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("solver", "euler", "ddim:eta=0"),
        ("solver", "ddpm", "ddim:eta=1"),
        ("noise", "./nowhere", "there is no ./nowhere"),
    ],
)
def test_another_name_for_what_there_is(kind, name, said):
    with pytest.raises(NoiseregError) as error:
        registry().find(kind, name)
    assert said in str(error.value)
