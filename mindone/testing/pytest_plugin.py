"""The option ``--golden`` of the parity tests, the setting of what they do not cover, and the markers of all tests.

pytest knows them before it looks for test files and their settings, which it does not find when ``--golden DIR`` names
a folder outside of the repository.
"""

MARKERS = (
    "golden: compares with the reference numbers of the original models",
    "msrun: starts several worker processes",
    "slow: takes more than a few seconds",
)


NOT_YET_COVERED = "golden_not_yet_covered"


def pytest_addoption(parser) -> None:
    parser.addoption("--golden", metavar="DIR", help="folder of reference runs; tests/golden if not given")
    parser.addini(NOT_YET_COVERED, "beginnings of the stems whose networks or rules do not exist yet", "args")


def pytest_configure(config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
