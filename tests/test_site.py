"""What the site of the documentation makes of the repository's Markdown."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "tools" / "site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[page](../../README.md#train)", "[page](../../README.md#train)"),
        ("[a folder with a page](../../)", "[a folder with a page](../../README.md)"),
        ("[notebook](../notes/a.ipynb)", "[notebook](../notes/a.md)"),
        ("[code](../../setup.py) and [folder](../../mindone)", "code and folder"),
        ("[nothing](../nothing.md)", "[nothing](../nothing.md)"),
        ("[elsewhere](https://www.mindspore.cn)", "[elsewhere](https://www.mindspore.cn)"),
        ("[here](#train)", "[here](#train)"),
        ("![a `b` [c]](../p.png)", "![a `b` [c]](../p.png)"),
    ],
)
def test_links_lead_to_pages_or_are_text(site, link, expected):
    files = SimpleNamespace(src_uris={"README.md", "docs/notes/a.md", "docs/p.png"})
    page = SimpleNamespace(file=SimpleNamespace(src_uri="docs/zh/page.md"))
    assert site.on_page_markdown(link, page, None, files) == expected


def test_a_notebook_becomes_a_page_of_its_texts_and_its_code(site, tmp_path):
    path = tmp_path / "a.ipynb"
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text\n"]},
        {"cell_type": "code", "source": ["x = 1"], "outputs": [{"text": "secret"}]},
    ]
    path.write_text(json.dumps({"cells": cells}))
    assert site.notebook_text(path) == "# Title\ntext\n\n```python\nx = 1\n```\n"


def test_every_document_is_a_page_and_pictures_come_along(site):
    pages, shown = site.sources(site.PAGES), site.sources(site.SHOWN)
    assert {"README.md", "docs/zh/first_result.md", "examples/opensora_hpcai/docs/errors.md"} <= set(pages)
    assert "docs/pictures/text_to_video.png" in shown
    assert not [path for path in pages if ".venv" in path or path.startswith("site/")]
