"""What the site has beside the pages of docs/: the README as its front page, the Python reference
from the docstrings, and the files of the repository that the pages link to.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Pages that stand outside docs/, by where the site has them."""
FILES = "files"
"""The site's folder for other files of the repository."""
LINK = re.compile(r"(\]\()([^)\s:#]+)((?:#[^)\s]*)?\))")

API = """# Python

What `noisereg` itself holds, and the parts of the small library. Plugins' protocols: [Plugins](plugins/reference.md).

::: noisereg.python
    options:
      show_root_heading: false
      heading_level: 2

## The small library

::: noisereg.diffusion.diffusion.Diffusion

::: noisereg.regularizers.isotropy.isotropy

::: noisereg.diffusion.law

::: noisereg.exchange.scheduler.NoiseScheduler
    options:
      filters: ["!^_"]
"""


def on_files(files: Files, config: Any) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    files.append(File.generated(config, "api.md", content=API))
    waiting = _linked(files)
    done: set[str] = set()
    while waiting:  # a plugin's README links to more
        more = Files([])
        for path in sorted(waiting):
            more.append(
                File.generated(config, f"{FILES}/{path}", content=(ROOT / path).read_bytes())
            )
        done |= waiting
        waiting = _linked(more) - done
        for file in more:
            files.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links from a page's place in the repository to its place in the site."""
    place = _place_in_repository(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), link[2]))
        where = _place_in_site(target)
        if where is None:
            return link[0]
        here = posixpath.dirname(page.file.src_uri)
        return f"{link[1]}{posixpath.relpath(where, here or '.')}{link[3]}"

    return LINK.sub(moved, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """The roles that docstrings mark names with, without their mark."""
    return re.sub(r":(?:class|func|meth|mod|attr):(<code>)~?", r"\1", html)


def _place_in_repository(page: str) -> str:
    for source, site in PAGES.items():
        if page == site:
            return source
    if page.startswith(f"{FILES}/"):
        return page.removeprefix(f"{FILES}/")
    return f"docs/{page}"


def _place_in_site(target: str) -> str | None:
    """Where the site has a file of the repository; None for what it has not."""
    if target in PAGES:
        return PAGES[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"{FILES}/{target}" if (ROOT / target).is_file() else None


def _linked(files: Files) -> set[str]:
    """The files outside docs/ that a page links to."""
    linked: set[str] = set()
    for file in files.documentation_pages():
        place = _place_in_repository(file.src_uri)
        for _, target, _ in LINK.findall(file.content_string):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
            if (_place_in_site(path) or "").startswith(f"{FILES}/"):
                linked.add(path)
    return linked
