"""The project's READMEs as tests read them: sections, code blocks, links and their anchors."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.jobs import ROOT

FOLDERS = ("configs", "jobs", "tests", "zooadapt")
READMES = [
    ROOT / "README.md",
    *sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("README.md")),
]


class Heading(NamedTuple):
    """A heading of a README."""

    level: int
    title: str
    line: int
    """Counted from 0."""


def read(folder: str = "") -> str:
    """The README of a folder, the project's own by default."""
    return (ROOT / folder / "README.md").read_text()


def section(folder: str, title: str) -> str:
    """The text below a heading of a folder's README, with its subsections."""
    text = read(folder)
    found = list(headings(text))
    (start,) = [heading for heading in found if heading.title == title]
    after = [h.line for h in found if h.line > start.line and h.level <= start.level]
    return "\n".join(text.splitlines()[start.line + 1 : min(after, default=None)]) + "\n"


def blocks(text: str, language: str) -> list[str]:
    """The code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def headings(text: str) -> Iterator[Heading]:
    """The headings outside code blocks."""
    for number, line in enumerate(_prose(text).splitlines()):
        if found := re.fullmatch(r"(#+) (.+)", line):
            yield Heading(len(found[1]), found[2], number)


def links(text: str) -> list[str]:
    """The targets of the links and images outside code blocks."""
    return re.findall(r"\]\(([^)\s]+)\)", _prose(text))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    return {anchor(heading.title) for heading in headings(text)}


def anchor(title: str) -> str:
    """A heading's anchor, if no heading before it has the same title."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def dead(readme: Path) -> list[str]:
    """The README's relative links that lead nowhere."""
    found = []
    for link in links(readme.read_text()):
        place, _, anchor = link.partition("#")
        target = readme.parent / place if place else readme
        target = target / "README.md" if anchor and target.is_dir() else target
        is_there = target.exists() and (not anchor or anchor in anchors(target.read_text()))
        if "://" not in link and not is_there:
            found.append(link)
    return found


def _prose(text: str) -> str:
    """The text with blank lines in place of its code blocks."""
    blank = re.compile(r"^( *)```.*?^\1```$", re.M | re.S)
    return blank.sub(lambda block: "\n" * block[0].count("\n"), text)
