"""What our documents point at is there."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[3]

DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "manifests/**/*.md", "bench/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")


def prose(document: str) -> str:
    """A document without code, in which brackets mean something else."""
    text = (ROOT / document).read_text(encoding="utf-8")
    text = re.sub(r"^(```+|~~~+).*?^\1[`~]*\s*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "code", text, flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^(```+|~~~+).*?^\1[`~]*\s*$", "", text, flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, flags=re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        unique, count = slug, 0
        while unique in found:
            count += 1
            unique = f"{slug}-{count}"
        found.add(unique)
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_lead_somewhere(document: str) -> None:
    """To a file of the repository and, behind a #, to one of its headings."""
    broken = []
    for target in LINK.findall(prose(document)):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        there = (ROOT / document).parent / path if path else ROOT / document
        if not there.exists() or (
            anchor and (there.suffix != ".md" or anchor not in anchors(there))
        ):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_are_there(document: str) -> None:
    """What a document calls by a path of the repository, in code and commands too."""
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(
        r"(?<![\w/.:-])((?:manifests|docs|tests|dev|bench|bpf|supervisor)/[\w./-]*\w)", text
    )
    assert sorted({one for one in named if not (ROOT / one).exists()}) == []


def test_there_are_documents() -> None:
    """The patterns above still find them."""
    assert {"README.md", "docs/architecture.md"} <= set(DOCUMENTS)


def test_every_document_of_docs_is_in_the_readme() -> None:
    """Its table of contents is whole."""
    linked = set(LINK.findall(prose("README.md")))
    assert [
        one
        for one in DOCUMENTS
        if one.startswith("docs/") and one.count("/") == 1 and one not in linked
    ] == []
