"""What a report is called and what sets it apart from others: a few words beside its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.files import write_text

ABOUT: Final = "about.md"


@dataclass(frozen=True)
class About:
    """The first lines of a report."""

    title: str = "Results"
    intro: str = ""
    """Markdown; what was compared, and what the names of the systems stand for. May be empty."""

    def to_parts(self) -> list[str]:
        """Return heading and introduction as paragraphs of Markdown."""
        return [f"# {self.title}", *([self.intro] if self.intro else [])]


def read_about(folder: Path) -> About:
    """Read what `write_about` has left in a folder of data; the plain title without it.

    Raises
    ------
    OSError
        The file is there and cannot be read.
    """
    path = folder / ABOUT
    if not path.exists():
        return About()
    title, _, intro = path.read_text(encoding="utf-8").partition("\n")
    return About(title.removeprefix("#").strip() or About.title, intro.strip())


def write_about(folder: Path, about: About) -> None:
    """Keep what a report is called beside its data, complete or not at all.

    Raises
    ------
    OSError
        It cannot be written.
    """
    write_text(folder / ABOUT, "\n\n".join(about.to_parts()) + "\n")
