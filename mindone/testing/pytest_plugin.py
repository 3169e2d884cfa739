"""The option ``--golden`` of the parity tests, known to pytest before it looks for test files and their settings."""


def pytest_addoption(parser) -> None:
    parser.addoption("--golden", metavar="DIR", help="folder of reference runs; tests/golden if not given")
