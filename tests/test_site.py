"""The documentation as a site: it is built with no broken link, and asks nobody for anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_no_link_leads_nowhere(site):
    """A broken link is an error of --strict, and a page that no menu holds is one, too."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        name = page.relative_to(ROOT / "docs").with_suffix(".html")
        file = site / (name.with_name("index.html") if name.name == "README.html" else name)
        assert file.is_file(), name
    assert "any noise" in (site / "index.html").read_text()
    assert 'id="noisereg.diffusion.diffusion.Diffusion.sample"' in (site / "api.html").read_text()
    assert (site / "files/configs/quickstart.yaml").is_file()
    assert (site / "search/search_index.json").is_file()


def test_a_page_loads_nothing_from_elsewhere(site):
    loads = re.compile(
        r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?(https?:)?//[^>]*"""
    )
    for page in site.rglob("*.html"):
        assert not [
            m.group()
            for m in loads.finditer(page.read_text())
            if 'rel="canonical"' not in m.group()
        ], page


def test_a_broken_link_is_an_error(tmp_path):
    pytest.importorskip("mkdocs")
    from mkdocs.config.base import load_config

    settings = load_config(str(ROOT / "mkdocs.yml"))
    assert set(settings.validation.links.values()) == {30}  # warnings, which --strict refuses


def test_how_to_cite_names_both_papers():
    cited = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text())
    numbers = [paper["identifiers"][0]["value"] for paper in cited["references"]]
    assert numbers == ["arXiv:2402.04930", "arXiv:2403.16790v2"]
    project = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert cited["version"] == project[1]
