"""The documents and their fenced blocks.

What a block is depends on its language:

- `sh` and `python` are run, in document order, unless a comment right above says `<!-- not run by tests: REASON -->`;
  then only what can be known without running is checked: targets, commands, options, settings.
- `json` is the answer of the command block before it. A text `…` stands for any value, and a key `…` for further keys.
- `toml` is a bundled model's card. A block without a language, or of `text`, is shown and no more.
"""

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"(?ms)^(?:<!-- not run by tests: (?P<reason>[^>]+) -->\n\n?)?^```(?P<language>\w*)\n(?P<text>.*?)^```$"
)


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, what it holds, why it is not run, and the answer shown after it."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None
    answer: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a document, in its order."""
    text, name = page.read_text("utf-8"), page.relative_to(ROOT).as_posix()
    matches = list(_BLOCK.finditer(text))
    fences = len(re.findall(r"(?m)^\s*(?:```|~~~)", text))
    assert fences == 2 * len(matches), f"{name}: a fence is indented, not closed, or not of three backticks"
    blocks = []
    for match, after in zip_longest(matches, matches[1:]):
        follows = after is not None and after["language"] == "json"
        blocks.append(
            Block(
                name,
                text.count("\n", 0, match.start("text")),
                match["language"],
                match["text"],
                match["reason"],
                after["text"] if after is not None and follows else None,
            )
        )
    return blocks


def outside_blocks(page: Path) -> str:
    """A document without its fenced blocks."""
    return _BLOCK.sub("", page.read_text("utf-8"))


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [block for block in BLOCKS if block.language in ("sh", "python")]
