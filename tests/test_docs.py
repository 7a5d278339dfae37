"""The documents are true: their code runs, prints what they show, and their links lead somewhere."""

import contextlib
import doctest
import io
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
# What differs from run to run: wall times, and the improvement left, which is rounding error.
VARIES = [(r"in \d+\.\d+ s\b", "in N s"), (r"further improvement [\d.e+-]+", "further improvement N")]


def blocks(text: str) -> list[tuple[str, str, int]]:
    """Fenced blocks: language, content, line."""
    return [(m[1], m[2], text[: m.start()].count("\n") + 2) for m in FENCE.finditer(text)]


def masked(text: str) -> str:
    for pattern, replacement in VARIES:
        text = re.sub(pattern, replacement, text)
    return text


def same(want: str, got: str) -> bool:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    return doctest.OutputChecker().check_output(masked(want), masked(got), flags)


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    prose = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_code_runs_and_prints_what_is_shown(path, tmp_path, monkeypatch):
    """Python blocks run in order in one namespace; a `text` block that follows one shows what it prints."""
    found = blocks(path.read_text(encoding="utf-8"))
    if not any(language == "python" for language, _, _ in found):
        pytest.skip("no Python code in it")
    (tmp_path / "datasets").symlink_to(ROOT / "datasets", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict = {"__name__": "document"}
    for i, (language, content, number) in enumerate(found):
        if language != "python":
            continue
        printed = io.StringIO()
        code = compile("\n" * (number - 1) + content, str(path), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")
        if i + 1 < len(found) and found[i + 1][0] == "text":
            want = found[i + 1][1]
            assert same(want, printed.getvalue()), f"{path.name}:{number} prints\n{printed.getvalue()}\nnot\n{want}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    prose = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in LINK.findall(prose):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = Path(os.path.normpath(path.parent / name)) if name else path
        assert file.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{path.name}: {target}"


def test_every_guide_is_on_the_map():
    linked = set(LINK.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    assert {path.name for path in ROOT.glob("docs/*.md")} - {"index.md"} <= linked
