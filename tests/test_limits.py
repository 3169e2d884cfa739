"""What keeps the code readable: short functions, files that fit a head, and signatures that say what they take."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("mindone", "examples", "tests", "tools", "benchmarks", "scripts")
PACKAGE = ROOT / "examples/opensora_hpcai/opensora"


def files(*suffixes):
    folders = [ROOT / folder for folder in FOLDERS]
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in suffixes]


def functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


def test_no_file_has_more_than_500_lines():
    lengths = {path: path.read_text().count("\n") for path in files(".py", ".cc", ".h", ".sh")}
    assert len(lengths) > 300
    assert not {str(path): length for path, length in lengths.items() if length > 500}


def test_no_function_has_more_than_60_lines():
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path in files(".py")
        for node in functions(path)
        if node.end_lineno - node.lineno >= 60
    ]
    assert not long


def is_public(name):
    return not name.startswith("_") or name == "__init__"


def says_anything(annotation):
    """Whether it has an Any that does not stand for the values of a JSON or YAML file, or of a config's fields."""
    text = ast.unparse(annotation).replace("dict[str, Any]", "").replace("Mapping[str, Any]", "")
    return "Any" in text.replace("|", " ").replace("[", " ").replace("]", " ").replace(",", " ").split()


@pytest.mark.parametrize(
    ("signature", "expected"),
    [("def f(x: Any): ...", True), ("def f(x: dict[str, Any] | None): ...", False), ("def f() -> Any: ...", True)],
)
def test_an_any_in_a_signature_is_found(signature, expected):
    assert any(says_anything(annotation) for annotation in annotations(ast.parse(signature).body[0])) == expected


def annotations(node):
    # Keyword arguments that are named nowhere are fields of a config; those have types of their own.
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg]
    found = [argument.annotation for argument in arguments if argument is not None]
    return [annotation for annotation in (*found, node.returns) if annotation is not None]


def test_public_signatures_of_the_example_do_not_take_just_anything():
    vague = [
        f"{path}:{node.lineno} {node.name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in functions(path)
        if is_public(node.name) and any(says_anything(annotation) for annotation in annotations(node))
    ]
    assert not vague
