"""The generated pages are what the code says today."""

import importlib.util
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def generator(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_up_to_date():
    """Keys and components to the letter; of the commands the names, since help texts wrap by
    typer's version.
    """
    written = (DOCS / "reference.md").read_text(encoding="utf-8")
    made = generator("make_reference").page()
    assert written.partition("## Commands")[0] == made.partition("## Commands")[0], (
        "run python docs/make_reference.py"
    )
    assert re.findall(r"^### .*", written, re.M) == re.findall(r"^### .*", made, re.M), (
        "run python docs/make_reference.py"
    )


def test_the_page_of_configurations_is_up_to_date():
    written = (DOCS / "configs.md").read_text(encoding="utf-8")
    assert written == generator("make_configs").page(), "run python docs/make_configs.py"


def test_the_page_of_benchmarks_is_what_was_measured_last() -> None:
    written = (DOCS / "benchmarks.md").read_text("utf-8")
    assert written == generator("make_benchmarks").page(), "run python docs/make_benchmarks.py"


def test_every_error_is_on_the_page_of_troubles():
    written = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    script = generator("make_troubleshooting")
    said = {text for texts in script.messages().values() for text in texts}
    assert len(said) > 300
    listed = set(re.findall(r"^- `(.*)`$", written, re.M))
    assert said ^ listed == set(), "run python docs/make_troubleshooting.py"
    assert written == script.page(), "run python docs/make_troubleshooting.py"


def test_every_group_of_errors_has_messages_and_says_what_to_type():
    script = generator("make_troubleshooting")
    assert all(script.messages().values())
    assert all("`" in group.advice or "](" in group.advice for group in script.GROUPS)


def test_every_configuration_key_is_described():
    written = (DOCS / "reference.md").read_text(encoding="utf-8").partition("## Built-in")[0]
    undescribed = re.findall(r"^\| (`[^`]+`) \|.*\|\s*\|$", written, re.M)
    assert undescribed == []


def test_links_between_pages_lead_somewhere():
    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
    dead = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert dead == []


def test_what_goes_with_what_is_what_the_page_says():
    """Trains, samples and uses every combination again: some 320 of them."""
    written = (DOCS / "composition.md").read_text(encoding="utf-8")
    assert written == generator("make_composition").page(), "run python docs/make_composition.py"


def test_a_combination_is_refused_with_a_reason_or_works():
    written = (DOCS / "composition.md").read_text(encoding="utf-8")
    tables, _, reasons = written.partition("## Why not")
    numbered = {int(n) for n in re.findall(r"^(\d+)\. \S", reasons, re.M)}
    assert {int(n) for n in re.findall(r"\| \((\d+)\) ", tables)} == numbered
    assert tables.count("✓") > 200
