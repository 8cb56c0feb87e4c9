"""Figures of the structure for docs/architecture.md: `python -m tests.structure`, in a clone."""

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

from tests.conftest import ROOT
from tests.test_architecture import EXCEPTIONS, MAY_IMPORT

LONGEST_FILE = 300
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_files() -> list[Path]:
    """Return every file of code in every room, tests left out."""
    rooms = [ROOT / room for room in MAY_IMPORT if (ROOT / room).is_dir()]
    return [*sorted(ROOT.glob("*.py")), *(path for room in rooms for path in sorted(room.rglob("*.py")))]


def code_lines(path: Path) -> int:
    """Return the lines of a file that hold code, which are neither blank, nor a comment, nor a docstring."""
    text = path.read_text("utf-8")
    texts = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in NO_CODE]
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - texts)


def main() -> None:
    """Print the figures."""
    rooms = Counter[str]()
    for path in code_files():
        rooms[path.relative_to(ROOT).parts[0].removesuffix(".py")] += code_lines(path)
    (largest, lines), total = rooms.most_common(1)[0], rooms.total()
    too_long = [path for path in code_files() if len(path.read_text("utf-8").splitlines()) > LONGEST_FILE]
    print(f"lines of code       {total:,} in {len(code_files())} files, without docstrings and comments")
    print(f"largest room        {largest}/, {lines / total:.0%} of them")
    print(f"files over {LONGEST_FILE} lines {len(too_long)}")
    print(f"named exceptions to the arrows {len(EXCEPTIONS)}; any other fails tests/test_architecture.py")


if __name__ == "__main__":
    main()
