"""For mkdocs: pages that stand outside of docs/ are pages of the site too, so that links to them lead somewhere."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

PAGES = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "bench/results/README.md": "results.md",
}
"""Path in the repository -> path in the site."""
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """The pages outside, as pages of the site."""
    root = PurePosixPath(config.docs_dir).parent
    for source, page in PAGES.items():
        with open(root / source, encoding="utf-8") as file:
            files.append(File.generated(config, page, content=_relinked(file.read(), source, page)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of pages in docs/ to those outside."""
    place = page.file.src_uri
    return markdown if place in PAGES.values() else _relinked(markdown, f"docs/{place}", place)


def _relinked(text: str, source: str, page: str) -> str:
    """Links written for the repository, seen from `source`, as links of the site, seen from `page`."""

    def link(found: re.Match[str]) -> str:
        target = normpath(str(PurePosixPath(source).parent / found[2]))
        target = PAGES.get(target, target.removeprefix("docs/"))
        return f"{found[1]}{relpath(target, PurePosixPath(page).parent)}{found[3] or ''})"

    return LINK.sub(link, text)
