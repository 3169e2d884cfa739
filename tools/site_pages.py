"""What ``mkdocs build`` takes as the documentation: the repository's Markdown in its places, and what it shows.

mkdocs.yml names this file as its hook. A page has the address that its file has in the repository, so that links work
in both. Links to what is no page (code, a folder) stay as their text.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/**/*.md", "benchmarks/*.md", "examples/*/*.md", "examples/*/docs/**/*.md")
PAGES += ("examples/*/configs/**/*.md", "examples/*/notebooks/*.ipynb")
SHOWN = ("LICENSE", "docs/site.css", "docs/**/*.png", "examples/*/docs/**/*.png", "configs/*.yaml")
SHOWN += ("examples/*/configs/**/*.yaml",)
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s#]+)(#[^()\s]*)?\)")


def sources(patterns: tuple[str, ...]) -> list[str]:
    """The files of some patterns, by their paths in the repository."""
    return sorted({path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of docs_dir by those of the repository."""
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    for path in [*sources(PAGES), *sources(SHOWN)]:
        if path.endswith(".ipynb"):
            text = notebook_text(ROOT / path)
            file = File.generated(config, page_of(path), content=text, inclusion=InclusionLevel.INCLUDED)
        else:
            given = {"abs_src_path": str(ROOT / path), "inclusion": InclusionLevel.INCLUDED}
            file = File.generated(config, path, **given)
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links at pages: a folder's at its README, a notebook's at its page, and others at nothing."""
    folder = posixpath.dirname(page.file.src_uri)

    def replaced(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if ":" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        known = next(
            (name for name in (path, page_of(path), posixpath.normpath(f"{path}/README.md")) if name in files.src_uris),
            None,
        )
        if known is None:
            return text if (ROOT / path).exists() else link[0]
        return f"[{text}]({posixpath.relpath(known, folder or '.')}{anchor})"

    return LINK.sub(replaced, markdown)


def page_of(path: str) -> str:
    """The address of a notebook's page; any other path as it is."""
    return re.sub(r"\.ipynb$", ".md", path)


def notebook_text(path: Path) -> str:
    """A notebook as Markdown, without what its cells print."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"]).strip()
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(parts) + "\n"
