"""``noisereg plugins`` and ``--plugin``, as a user types them and sees the answer."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fake_packages import Packages, good

from noisereg.cli import plugins_new
from noisereg.cli.main import run
from noisereg.plugins.registry import Policy, Registry, reset
from noisereg.testing import Subject, checks
from noisereg.testing import run as run_check

HEAVY = {"torch", "numpy", "scipy", "sklearn", "diffusers", "matplotlib", "PIL", "jinja2"}

FAST = [
    "--batch-size", "8", "--set", "sample.steps=2", "--set", "sample.num=4", "--set", "runtime.device=cpu",
]  # fmt: skip
KURTOSIS = Path(__file__).parents[2] / "plugins/single-file/kurtosis.py"


@pytest.fixture(autouse=True)
def _fresh():
    reset()
    yield
    reset()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    installed = Packages(folder)
    yield installed
    installed.forget()


def call(capsys, *arguments):
    reset()
    code = run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def mistake(capsys, *arguments):
    code, out, err = call(capsys, *arguments)
    (line,) = [line for line in err.splitlines() if line.startswith("noisereg: error: ")]
    assert (code, out) == (2, "")
    return line


def rows(capsys, *arguments):
    code, out, _ = call(capsys, "plugins", "list", "--json", *arguments)
    assert code == 0
    return json.loads(out)


# list


def test_list_says_what_each_plugin_is_and_what_is_wrong_with_it(packages, capsys):
    packages.install("fine", good("mine"), "2.5")
    packages.install("broken-one", "1 / 0")
    packages.install("blocked-one", good("other"))
    packages.install("old", good("old", api=0))
    packages.install("replacer", good("white"))
    packages.install("first", good("same"))
    packages.install("second", good("same"))
    code, out, err = call(
        capsys, "--block-plugin", "blocked-one", "plugins", "list", "--kind", "noise"
    )
    os.environ.pop("NOISEREG_BLOCK")
    assert code == 0
    found = {(line.split()[1], line.split()[2]): line for line in out.splitlines()[1:]}
    assert found["mine", "fine"].split()[:5] == ["noise", "mine", "fine", "2.5", "ok"]
    assert "for a test" in found["mine", "fine"]
    assert found["broken-one", "broken-one"].split()[4] == "broken"
    assert (
        "ZeroDivisionError: division by zero (broken_one.py, line 1)"
        in found["broken-one", "broken-one"]
    )
    assert found["blocked-one", "blocked-one"].split()[0] == "-"
    assert "  blocked       blocked by NOISEREG_BLOCK" in found["blocked-one", "blocked-one"]
    assert "incompatible  built for plugin API 0; this noisereg has 1" in found["old", "old"]
    assert (
        "conflict      the built-in keeps the short name; write replacer/white"
        in found["white", "replacer"]
    )
    assert found["white", "noisereg"].split()[4] == "ok"
    assert "the short name is also that of second/same; write first/same" in found["same", "first"]
    assert (
        len([line for line in err.splitlines() if "warning: the plugin broken-one" in line]) == 1
    )


def test_list_as_json_and_with_timings(packages, capsys):
    packages.install("fine", good("mine"))
    (row,) = [r for r in rows(capsys) if r["name"] == "mine"]
    assert (row["kind"], row["distribution"], row["version"], row["status"]) == (
        "noise",
        "fine",
        "1.0",
        "ok",
    )
    assert 0 < row["seconds"] < 1
    _, out, _ = call(capsys, "plugins", "list", "--timings")
    assert any(
        line.split()[:1] == ["fine"] and line.split()[-1] == "ms" for line in out.splitlines()
    )
    assert mistake(capsys, "plugins", "list", "--kind", "nois").endswith("did you mean 'noise'?")


def test_no_plugins_lists_built_ins_alone(packages, capsys, monkeypatch):
    monkeypatch.setenv(
        "NOISEREG_NO_PLUGINS", "0"
    )  # the flag sets it, for processes that it starts
    packages.install("fine", good("mine"))
    assert {r["distribution"] for r in rows(capsys, "--no-plugins")} == {"noisereg"}


def test_under_a_strict_policy_list_still_lists_and_exits_with_1(packages, capsys, monkeypatch):
    monkeypatch.setenv("NOISEREG_STRICT", "0")
    packages.install("broken-one", "1 / 0")
    assert "NOISEREG_STRICT is set" in mistake(
        capsys, "--strict-plugins", "plugins", "show", "white"
    )
    code, out, _ = call(capsys, "plugins", "list")
    assert code == 1
    assert "broken-one" in out


def test_help_the_list_and_one_of_them_import_nothing_heavy(packages):
    """What they cost is measured in benchmarks/; here: what they must not import."""
    for k in range(6):
        packages.install(f"plugin-{k}", good(f"noise-{k}"))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from noisereg.cli.main import run; "
        f"code = run(sys.argv[2:]); heavy = sorted({HEAVY!r} & sys.modules.keys()); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    for arguments in (["plugins", "list"], ["--help"], ["plugins", "show", "noise-3"]):
        done = subprocess.run(
            [sys.executable, "-c", code, str(packages.folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
    assert "file noise-3" not in done.stdout
    assert f"code       {packages.folder}/plugin_3.py:4" in done.stdout


# show


def test_show_gives_parameters_with_defaults_and_limits_the_code_and_a_line_to_paste(capsys):
    code, out, _ = call(capsys, "plugins", "show", "kurtosis", "--plugin", KURTOSIS)
    assert code == 0
    assert "kurtosis  regularizer of file" in out
    assert "cite       moments of the noise: Hwang et al. 2025" in out
    assert "weight=0.1         λ: what the value is multiplied by in the loss [≥ 0]" in out
    assert "floor=0.001        added to the mean square" in out
    assert "[> 0]" in out
    line = next(
        n
        for n, text in enumerate(KURTOSIS.read_text().splitlines(), 1)
        if text.startswith("class Kurtosis(R")
    )
    assert f"{KURTOSIS}:{line}" in out
    assert f"noisereg train --reg kurtosis:weight=0.1 --plugin {KURTOSIS}" in out


def test_show_of_a_built_in_names_its_file_and_nested_parameters(capsys):
    _, out, _ = call(capsys, "plugins", "show", "blue-tv", "--json")
    (found,) = json.loads(out)
    assert found["code"].rpartition("/")[2].startswith("time_varying.py:")
    assert {p["name"]: p["default"] for p in found["parameters"]}["gamma.tau"] == 0.2


def test_show_of_an_unknown_name_gives_the_nearest_or_the_cause(packages, capsys):
    assert "did you mean 'isotropy'?" in mistake(capsys, "plugins", "show", "isotropie")
    packages.install("broken-one", "1 / 0")
    assert "ZeroDivisionError" in mistake(capsys, "plugins", "show", "broken-one")


# check


def test_check_runs_the_kit_in_a_fresh_process_and_says_what_is_wrong(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from noisereg.api import Component, Pairing, hookimpl\n"
        "class Nearest(Pairing):\n"
        "    def __init__(self, params, ctx): pass\n"
        "    def __call__(self, x0, latents, eps, t):\n"
        "        return (x0.flatten(1)[:, None] - "
        "latents['z'].flatten(1)).square().sum(2).argmin(1)\n"
        "@hookimpl\n"
        "def noisereg_pairings():\n"
        "    yield Component(name='nearest', impl=Nearest, summary='the nearest noise, used as "
        "often as it is')\n"
    )
    code, out, _ = call(capsys, "plugins", "check", file)
    assert code == 1
    failed = {line.split()[1] for line in out.splitlines() if line.startswith("  FAILED")}
    assert "gives_a_permutation" in failed
    assert "it is no permutation: latents [" in out
    assert "every noise is used once: then the latents stay N(0, 1)" in out
    assert out.splitlines()[-1].endswith("ms")


def test_check_takes_a_component_a_package_or_a_folder(tmp_path, capsys):
    code, out, _ = call(capsys, "plugins", "check", "unconditional", "--json")
    (result,) = json.loads(out)
    assert code == 0
    assert {c["status"] for c in result["checks"]} == {"passed", "not applicable"}
    assert (
        call(
            capsys, "plugins", "new", "my-metric", "--kind", "metric", "--out", tmp_path / "pack"
        )[0]
        == 0
    )
    code, out, _ = call(capsys, "plugins", "check", tmp_path / "pack")
    assert code == 0, out
    assert "passed          declares_its_bounds" in out
    assert "passed          imports_quickly" in out
    assert "no component is called" in mistake(
        capsys, "plugins", "check", "no-such-thing-anywhere"
    )
    (tmp_path / "empty").mkdir()
    assert "expected a package with an entry point" in mistake(
        capsys, "plugins", "check", tmp_path / "empty"
    )


def test_a_component_that_kills_its_process_fails_and_the_report_goes_on(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "import os\n"
        "from noisereg.api import Component, Pairing, hookimpl\n"
        "class Dies(Pairing):\n"
        "    def __init__(self, params, ctx): os._exit(3)\n"
        "@hookimpl\n"
        "def noisereg_pairings():\n"
        "    yield Component(name='dies', impl=Dies, summary='exits')\n"
    )
    code, out, _ = call(capsys, "plugins", "check", file)
    assert code == 1
    assert "survives" in out
    assert "the process ended with code 3" in out


def test_an_undeclared_bound_and_a_slow_import_are_found(packages, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(packages.folder))
    packages.install(
        "slow-one",
        """
        import torch
        from noisereg.api import Component, Task, hookimpl

        @hookimpl
        def noisereg_tasks():
            yield Component(name="slow-one", impl=Task, summary="tells the network nothing")
        """,
    )
    code, out, _ = call(capsys, "plugins", "check", "slow-one")
    assert code == 1
    failed = {line.split()[1] for line in out.splitlines() if line.startswith("  FAILED")}
    assert {"imports_quickly", "declares_its_bounds"} <= failed


# new


@pytest.mark.parametrize("kind", plugins_new.TEMPLATED)
@pytest.mark.parametrize("single", [True, False], ids=["file", "package"])
def test_new_writes_a_plugin_that_loads_and_is_well_formed(
    tmp_path, capsys, monkeypatch, kind, single
):
    monkeypatch.chdir(tmp_path)
    extra = ["--single-file"] if single else []
    code, out, _ = call(capsys, "plugins", "new", f"my-{kind}", "--kind", kind, *extra)
    assert code == 0
    if single:
        assert out.split()[0] == f"my_{kind}.py"
        (row,) = [
            r for r in rows(capsys, "--plugin", f"./my_{kind}.py") if r["name"] == f"my-{kind}"
        ]
        assert row["kind"] == kind
    else:
        assert f"pip install ./my-{kind}" in out
        assert f"pytest my-{kind}" in out
        assert Path(f"my-{kind}/tests/test_my_{kind}.py").is_file()
    ruff = Path(sys.executable).with_name("ruff")
    if ruff.exists():
        flags = ["--isolated", "--line-length", "120", "--target-version", "py311"]
        found = subprocess.run(
            [ruff, "check", *flags, "--select", "E,F,I,UP,B", "."], capture_output=True, text=True
        )
        assert found.returncode == 0, found.stdout
        assert (
            subprocess.run(
                [ruff, "format", *flags[:3], "--check", "."], capture_output=True
            ).returncode
            == 0
        )


@pytest.mark.parametrize("kind", plugins_new.SAMPLED)
def test_new_writes_a_solver_and_a_grid_that_pass_the_kit(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    _, out, _ = call(capsys, "plugins", "new", f"my-{kind}", "--kind", kind, "--single-file")
    use = f"noisereg sample RUN --{kind} my-{kind} --plugin my_{kind}.py"
    assert out.splitlines()[-1].strip() == use
    known = Registry(Policy(entry_points=False))
    known.load(f"./my_{kind}.py")
    outcomes = [run_check(c, Subject.find(kind, f"file/my-{kind}", known)) for c in checks(kind)]
    assert {o.check.name: o.message for o in outcomes if o.status == "failed"} == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["white"], "'white' is a built-in noise; choose another name, such as my-white"),
        (["My-Noise"], "expected [a-z][a-z0-9-]*"),
        (["json"], "which Python has; try my-json"),
        (["mine", "--kind", "noize"], "did you mean 'noise'?"),
        (["mine", "--out", "taken"], "is there already and not empty"),
        (["mine", "--out", "taken/mine.py"], "is there already"),
    ],
)
def test_new_refuses_what_could_not_work(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.py").touch()
    assert said in mistake(capsys, "plugins", "new", *arguments)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["mine.py", "taken"]


# --plugin on every command, and what finds it again


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A plugin file and a run trained with it, from another working directory by a relative
    path.
    """
    folder = tmp_path_factory.mktemp("made")
    here = Path.cwd()
    try:
        os.chdir(folder)
        reset()
        assert run(["plugins", "new", "mine", "--kind", "noise", "--single-file"]) == 0
        assert (
            run(
                [
                    "train",
                    "--noise",
                    "mine",
                    "--plugin",
                    "./mine.py",
                    "--steps",
                    "2",
                    *FAST,
                    "--out",
                    "run",
                ]
            )
            == 0
        )
    finally:
        os.chdir(here)
        reset()
    return folder


def test_a_run_records_path_and_hash_and_later_commands_find_the_file(made, capsys, tmp_path):
    recorded = (made / "run/config.yaml").read_text()
    assert f"source: {made / 'mine.py'}" in recorded
    assert "name: file/mine" in recorded
    assert call(capsys, "sample", made / "run", "--num", 4, "--out", tmp_path / "a.npz")[0] == 0
    code, out, _ = call(
        capsys,
        "eval",
        made / "run",
        "--metric",
        "prdc:k=3",
        "--num",
        20,
        "--steps",
        2,
        "--format",
        "json",
    )
    assert code == 0
    assert "precision" in out
    code, _, err = call(capsys, "train", "--resume", "--out", made / "run", "--steps", 3)
    assert code == 0, err
    # and a configuration taken from it repeats the run
    code, _, err = call(
        capsys, "train", "--config", made / "run/config.yaml", "--out", tmp_path / "again"
    )
    assert code == 0, err


def test_a_changed_file_is_refused_with_what_to_type(made, capsys, tmp_path):
    file = made / "mine.py"
    original = file.read_text()
    file.write_text(original + "\n# changed\n")
    try:
        for command in (
            ["sample", made / "run", "--num", 2, "--out", tmp_path / "b.npz"],
            ["eval", made / "run", "--metric", "prdc:k=3", "--num", 20],
            ["train", "--resume", "--out", made / "run", "--steps", 4],
        ):
            line = mistake(capsys, *command)
            assert "has changed since" in line
            assert "config.yaml" in line
            assert " recorded" in line
            assert f"give --plugin {file} to use it as it is now" in line
        code, _, err = call(
            capsys,
            "sample",
            made / "run",
            "--num",
            2,
            "--plugin",
            file,
            "--out",
            tmp_path / "b.npz",
        )
        assert code == 0, err
    finally:
        file.write_text(original)


def test_a_run_that_was_sent_needs_a_word_on_its_plugin_and_trust_is_one(
    made, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("NOISEREG_CONFIG", str(tmp_path / "settings"))  # another user
    command = ["sample", made / "run", "--num", 2, "--out", tmp_path / "d.npz"]
    file = made / "mine.py"
    line = mistake(capsys, *command)
    assert f"noisereg plugins trust {file}" in line
    code, out, _ = call(capsys, "plugins", "trust", file)
    assert code == 0
    assert out == (
        f"trusted: {file} (SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}), in "
        f"{tmp_path / 'settings/trusted-plugins.txt'}\n"
    )
    assert call(capsys, *command)[0] == 0
    line = mistake(capsys, *command, "--no-plugins")
    assert f"it came with the plugin {file}, and --no-plugins loads none" in line


def test_trust_executes_nothing_and_takes_no_run_folder_and_no_nonsense(made, capsys, tmp_path):
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'proof')!r}, 'w')")
    assert call(capsys, "plugins", "trust", evil)[0] == 0
    assert not (tmp_path / "proof").exists()
    inside = made / "run/evil.py"
    inside.touch()
    assert "nothing in one is executed" in mistake(capsys, "plugins", "trust", inside)
    inside.unlink()
    assert "No such file" in mistake(capsys, "plugins", "trust", "./no.py")
    assert "no file that importing it executes" in mistake(capsys, "plugins", "trust", "no_such")


def test_the_cells_of_a_sweep_find_the_file(made, capsys, tmp_path, monkeypatch):
    """Each cell's own command, typed in another folder."""
    monkeypatch.chdir(made)
    sweep = tmp_path / "sweep"
    grid = [
        "--noise",
        "white",
        "--noise",
        "mine",
        "--plugin",
        "mine.py",
        "--steps",
        "1",
        *FAST,
        "--out",
        sweep,
    ]
    code, out, err = call(capsys, "sweep", *grid, "--print-commands")
    assert code == 0, err
    monkeypatch.chdir(tmp_path)
    commands = [
        shlex.split(line) for line in out.splitlines() if line.startswith("noisereg train")
    ]
    assert len(commands) == 2
    for _, *arguments in commands:
        code, _, err = call(capsys, *arguments)
        assert code == 0, err
    code, out, err = call(capsys, "eval", sweep, "--metric", "prdc:k=3", "--num", 20, "--steps", 2)
    assert code == 0, err
    assert "mine" in out


def test_a_plugin_of_the_environment_is_recorded_too(made, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("NOISEREG_PLUGINS", str(made / "mine.py"))
    code, _, err = call(
        capsys, "train", "--noise", "mine", "--steps", 1, *FAST, "--out", tmp_path / "run"
    )
    assert code == 0, err
    monkeypatch.delenv("NOISEREG_PLUGINS")
    assert (
        call(capsys, "sample", tmp_path / "run", "--num", 2, "--out", tmp_path / "c.npz")[0] == 0
    )


def test_a_broken_file_gives_its_cause_and_nothing_is_written(capsys, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import not_a_module_of_anyones\n")
    line = mistake(capsys, "train", "--noise", "mine", "--plugin", file, "--out", tmp_path / "run")
    assert (
        "ModuleNotFoundError: No module named 'not_a_module_of_anyones' (mine.py, line 1)" in line
    )
    assert not (tmp_path / "run").exists()


def test_a_built_in_component_trains_with_a_broken_plugin_installed(packages, capsys, tmp_path):
    packages.install("broken-one", "raise SystemExit(1)")
    code, _, err = call(capsys, "train", "--steps", 1, *FAST, "--out", tmp_path / "run")
    assert code == 0
    assert (
        "warning: the plugin broken-one (broken-one) is broken and left out: SystemExit: 1" in err
    )
    line = mistake(capsys, "train", "--noise", "broken-one", "--out", tmp_path / "other")
    assert "the plugin broken-one (broken-one) is broken: SystemExit: 1" in line
