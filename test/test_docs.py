"""The pages: they build without a warning, their links lead somewhere, their sentences are short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROSE = [page for page in PAGES if page.parent.name != "reference"]  # most of the reference is tables
AVOID = (  # phrases that a stranger stumbles over
    r"\bat hand\b",
    r"\b(is|are|was|were) (said|told|asked)\b",
    r"\bwhoever\b",
    r"\bsays so\b",
    r"\bnobody\b.{0,20}\bhas\b",
)


def prose(page: Path) -> str:
    """The page without code, tables, pictures and link targets."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    lines = [line for line in text.splitlines() if not line.startswith(("    ", "|", "!["))]
    return re.sub(r"\]\([^)]*\)", "]", "\n".join(lines))


def sentences(page: Path) -> list[str]:
    parts = re.split(r"(?<=[.!?:;])\s+|\n\s*\n|\n[-#]", prose(page))
    return [part for part in parts if len(part.split()) > 3]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_are_short_and_plain(page):
    found = sentences(page)
    lengths = [len(sentence.split()) for sentence in found]
    longest = max(found, key=lambda sentence: len(sentence.split()), default="")
    assert max(lengths, default=0) <= 45, longest
    assert sum(lengths) / max(1, len(lengths)) <= 18
    for phrase in AVOID:
        match = re.search(phrase, prose(page), flags=re.I)
        assert match is None, f"{page.name}: {match.group()!r}"


def test_the_readme_is_read_in_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("myst_parser")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "index.html").exists()


def test_the_pages_are_spelled_correctly():
    pytest.importorskip("codespell_lib")
    command = [sys.executable, "-m", "codespell_lib", *map(str, PAGES)]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
