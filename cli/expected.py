"""The options by which an import is held against what the original gave, for any command that makes a package."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click

from errors import StoreError
from export.original.answers import Kind
from export.original.check import TOLERANCE, check_answers


@dataclass(frozen=True)
class Expected:
    """What the original gave, as the options say it.

    Attributes:
        file: JSON or CSV; None where there is nothing to compare with.
        kind: what the file holds; None to tell it from the values.
        tolerance: the largest difference that passes.
    """

    file: Path | None
    kind: Kind | None
    tolerance: float

    def check(self, package: Path, examples: Path | None) -> None:
        """Compare a package with the file, if there is one, and print the result.

        Args:
            package: the folder of the package.
            examples: a folder of pictures, or a file of rows; None for the package's goldens.

        Raises:
            StoreError: the package answers otherwise than the original, or the files do not fit.
        """
        if self.file is not None:
            kind, tolerance = self.kind, self.tolerance
            click.echo(str(check_answers(package, examples, self.file, click.echo, kind=kind, tolerance=tolerance)))


def expected_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets them as one argument `expected`."""

    @click.option(
        "--expected",
        "expected_file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="What the original gave for the examples, JSON or CSV; the model is refused where it answers otherwise.",
    )
    @click.option("--expected-kind", type=click.Choice(get_args(Kind)), help="What that is, where it does not show.")
    @click.option(
        "--tolerance",
        type=click.FloatRange(min=0, min_open=True),
        default=TOLERANCE,
        show_default=True,
        help="The largest difference from that, in probability.",
    )
    @functools.wraps(command)
    def with_expected(
        expected_file: Path | None, expected_kind: Kind | None, tolerance: float, *arguments: Any, **options: Any
    ) -> Any:
        if expected_file is None and expected_kind is not None:
            raise StoreError("--expected-kind goes with --expected FILE.")
        return command(*arguments, expected=Expected(expected_file, expected_kind, tolerance), **options)

    return with_expected
