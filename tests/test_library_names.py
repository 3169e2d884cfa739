"""The library knows no example: their names occur in it where a formula's source is cited, and nowhere else."""

import ast
import re
from pathlib import Path

import mindone

PACKAGE = Path(mindone.__file__).parent
NAMES = re.compile(
    r"open.?sora|hpcai|stdit|mmdit|pixart|hunyuan|\bflux|dc.?ae\b|\blatte\b|spatial_vae|temporal_vae|spatial_blocks|"
    r"temporal_blocks|pos_embed_temporal|attn_temp|t_block|y_embedder|double_blocks|single_blocks",
    re.IGNORECASE,
)


def code_of(text: str) -> str:
    """Python source without comments and without texts that stand alone, as docstrings do."""

    class WithoutTexts(ast.NodeTransformer):
        def visit_Expr(self, node):  # noqa: N802
            alone = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            return ast.copy_location(ast.Pass(), node) if alone else self.generic_visit(node)

    return ast.unparse(WithoutTexts().visit(ast.parse(text)))


def test_no_code_of_the_library_holds_a_name_of_an_example():
    files = sorted(file for file in PACKAGE.rglob("*") if file.suffix in (".py", ".cc", ".h"))
    assert len(files) > 40
    found = {}
    for file in files:
        text = file.read_text(encoding="utf-8")
        names = NAMES.findall(code_of(text) if file.suffix == ".py" else text)
        if names:
            found[str(file.relative_to(PACKAGE))] = names
    assert not found


def test_names_count_in_code_but_not_in_docstrings_and_comments():
    assert NAMES.search(code_of('"""As in Open-Sora."""\nflux = "flux"  # PixArt')).group() == "flux"
    assert not NAMES.search(code_of('def f():\n    """As in Open-Sora."""\n    return flatten  # Flux'))
