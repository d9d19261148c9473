"""The plugin pages: what they show is executed and compared, what they list is what there is."""

import contextlib
import importlib.util
import inspect
import io
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import noisereg
from noisereg.cli.main import run
from noisereg.plugins import hookspecs
from noisereg.plugins.registry import HOOKS, KINDS, Policy, Registry, reset
from noisereg.runs.reporter import Reporter
from noisereg.testing import Subject, checks
from noisereg.testing import run as run_check

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "plugins"


def blocks(page: str):
    """(language, file name, text) of each fenced block."""
    return re.findall(r"^```(\w+)[ ]?([^\n]*)\n(.*?)^```$", page, re.M | re.S)


def typed(command: str, fails: bool = False) -> str:
    """What a line prints, on either stream; ``fails``: and its exit code
    is not 0."""
    if not command.startswith("noisereg "):
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
        return done.stdout
    out = io.StringIO()
    reset()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = run(command.split("#")[0].split()[1:])
    assert bool(code) == fails, f"$ {command}\nends with {code} and\n{out.getvalue()}"
    return out.getvalue()


def assert_shown(command: str, shown: list[str], printed: str) -> None:
    """Every line that the page shows is printed, in that order; … stands for anything."""
    lines = iter(line.rstrip() for line in printed.splitlines())
    for wanted in shown:
        if wanted.strip() in ("", "…"):
            continue
        pattern = re.sub(r"\\? *…(\\? )*", ".*", re.escape(wanted.rstrip()))
        assert any(re.fullmatch(pattern, line) for line in lines), (
            f"$ {command}\ndoes not print (in this order)\n{wanted}\nbut\n{printed}"
        )


@pytest.mark.parametrize("name", ["index.md", "tutorial.md"])
def test_what_a_page_shows_is_what_happens(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "plugins").symlink_to(ROOT / "plugins")
    noisereg.train(
        out="RUN", train={"steps": 2}, denoiser="mlp:width=8,blocks=1", reporter=Reporter()
    )
    namespace: dict = {}
    for language, file, text in blocks((PAGES / name).read_text(encoding="utf-8")):
        if language == "python" and file:
            Path(file).write_text(text)
        elif language == "python":
            reset()
            exec(compile(text, name, "exec"), namespace)
        elif language == "console":
            for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.M):
                fails = "error: " in shown or "FAILED" in shown
                assert_shown(command, shown.splitlines(), typed(command, fails))
    for module in ("streaks", "quiet_rows", "shrink"):
        sys.modules.pop(module, None)
    reset()


def test_a_line_that_is_not_printed_would_be_found():
    with pytest.raises(AssertionError, match="does not print"):
        assert_shown("x", ["kind …  ok"], "kind  name  broken\n")
    assert_shown("x", ["kind …  ok", "…", "end"], "kind  name  ok\nanything\nend\n")


def make_reference():
    spec = importlib.util.spec_from_file_location(
        "make_plugin_reference", ROOT / "docs/make_plugin_reference.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_code_says():
    written = (PAGES / "reference.md").read_text(encoding="utf-8")
    assert written == make_reference().page(), "run python docs/make_plugin_reference.py"


def test_every_hook_is_documented_has_a_kind_a_protocol_and_checks():
    hooks = {
        name
        for name, _ in inspect.getmembers(hookspecs, inspect.isfunction)
        if name.startswith("noisereg_")
    }
    assert hooks == set(HOOKS.values())
    assert set(HOOKS) == set(KINDS) == set(make_reference().PROTOCOLS)
    page = (PAGES / "reference.md").read_text(encoding="utf-8")
    for kind, hook in HOOKS.items():
        assert len(getattr(hookspecs, hook).__doc__ or "") > 20
        assert f"### {kind}: `{hook}`" in page
        assert [c for c in checks(kind) if c.kind == kind], f"the kit has no check of a {kind}"
        for check in checks(kind):
            assert f"| `{check.name}` |" in page


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_every_hook_passes_the_kit(kind, tmp_path):
    """The code in the hook's docstring, as a plugin file."""
    _, example = inspect.cleandoc(getattr(hookspecs, HOOKS[kind]).__doc__).split("Example:\n\n")
    file = tmp_path / "example.py"
    imports = "from noisereg.api import *\nfrom noisereg.api import hookimpl, per_sample\n\n"
    file.write_text(imports + textwrap.dedent(example))
    known = Registry(Policy(entry_points=False))
    (entry,) = known.load(str(file)).entries
    assert entry.kind == kind
    outcomes = [run_check(c, Subject.find(kind, entry.qualified, known)) for c in checks(kind)]
    assert {o.check.name: o.message for o in outcomes if o.status == "failed"} == {}


def test_every_hook_is_tested():
    """A component comes through it in test_registry, and the kit's checks of its kind have wrong
    components.
    """
    registry_tests = (ROOT / "tests/plugins/test_registry.py").read_text()
    assert (
        '@pytest.mark.parametrize("kind", KINDS)\ndef test_every_hook_registers_components_of_its_kind'
        in registry_tests
    )
    kits = "".join(p.read_text() for p in (ROOT / "tests/testing").glob("test_*kit*.py"))
    for kind in KINDS:
        assert re.search(
            rf'(assert_complete\(\s*"{kind}"|^    "{kind}": \(\s*Right)', kits, re.M
        ), kind


def test_statuses_and_variables_are_on_the_page():
    page = (PAGES / "index.md").read_text(encoding="utf-8")
    source = (ROOT / "noisereg/plugins/registry.py").read_text()
    for status in re.search(r"Status = Literal\[(.*?)\]", source)[1].replace('"', "").split(", "):
        assert f"| {status} |" in page
    for variable in set(re.findall(r"NOISEREG_\w+", source)):
        assert variable in page


def test_the_table_lists_what_is_in_plugins():
    table = (PAGES / "known.md").read_text(encoding="utf-8")
    for folder in (ROOT / "plugins").iterdir():
        if folder.is_dir():
            assert f"../../plugins/{folder.name}/README.md" in table
            assert (folder / "README.md").is_file()
