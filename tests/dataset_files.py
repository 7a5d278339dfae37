"""Where the data of tests are: the project's own, a folder named by DEEPNLME_DATA, an installed package's files."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def dataset(name: str) -> Path:
    """A data set of the project."""
    return ROOT / "datasets" / name / "data.csv"


def external(name: str) -> Path:
    """A file of the folder DEEPNLME_DATA; skips where there is none."""
    folder = os.environ.get("DEEPNLME_DATA")
    if not folder:
        pytest.skip("DEEPNLME_DATA is not set: it names the folder with data that the project does not ship")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    return path


def pharmpy_file(name: str) -> Path:
    """A file of pharmpy-core's example models, without importing the package; skips where it is not installed."""
    try:
        listed = files("pharmpy-core") or []
    except PackageNotFoundError:
        pytest.skip("pharmpy-core is not installed: pip install 'deepnlme[nonmem]'")
    for path in listed:
        if path.as_posix().endswith(f"pharmpy/internals/example_models/{name}"):
            return Path(str(path.locate()))
    pytest.skip(f"the installed pharmpy-core has no example_models/{name}")
