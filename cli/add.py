"""`vitrine models add`: any model of one's own, in one command."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from cli.cost import measure_and_warn
from cli.expected import Expected, expected_options
from cli.stores import open_store, place_of
from cli.variants import make_variant_package
from export.adding import add as add_model
from export.sources.kinds import Kind, Source, check_requirements, recognise
from export.sources.request import AddRequest

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
PATH = click.Path(path_type=Path, exists=True)
_PICTURES: frozenset[Kind] = frozenset(("checkpoint", "mar", "onnx", "timm", "torchscript", "torchvision"))
_GO_WITH: Mapping[str, frozenset[Kind]] = {
    "--weights": frozenset(("timm", "torchvision")),
    "--architecture": frozenset(("checkpoint", "mar", "torchscript")),
    "--output": frozenset(("rows",)),
    "--trust-pickle": frozenset(("rows",)),
    "--card": _PICTURES,
    **dict.fromkeys(("--variant", "--mean", "--std", "--size", "--resize", "--resize-to"), _PICTURES),
}
"""Option → the kinds of source that it goes with."""


class Numbers(click.ParamType[list[float]]):
    """Numbers with commas between them, such as `0.485,0.456,0.406`; one stands for a grey picture."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        """Return the numbers."""
        try:
            numbers = [float(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(
                f"{value!r} is not one or three numbers with commas between them, such as 0.5,0.5,0.5.", param, ctx
            )
        return numbers


class Size(click.ParamType[list[int]]):
    """A height and a width in pixels, such as `224x320`, or one number for both."""

    name = "pixels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Return height and width."""
        sides = str(value).lower().split("x")
        if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
            self.fail(f"{value!r} is no size in pixels, such as 224, or 224x320 for height and width.", param, ctx)
        return [int(sides[0]), int(sides[-1])]


@click.command()
@click.argument("source")
@click.option("--name", help="What it is to be called; by default as its file or network.")
@click.option("--labels", type=FILE, help="Its labels in the order of the outputs: one a line, or JSON.")
@click.option("--examples", type=PATH, help="A folder of pictures, or rows as CSV with a header or JSON: the goldens.")
@click.option("--size", type=Size(), help="Of pictures: height and width of the input, 224 or 224x320.")
@click.option(
    "--resize",
    type=click.Choice(["stretch", "short_side", "letterbox", "none"]),
    help="How pictures are resized before the middle is cut out.",
)
@click.option("--resize-to", type=Size(), help="What they are resized to, such as 256; by default the size.")
@click.option("--mean", type=Numbers(), help="Of each channel, of pixels from 0 to 1: 0.485,0.456,0.406.")
@click.option("--std", type=Numbers(), help="Standard deviation, likewise.")
@click.option("--weights", type=FILE, help="Of timm:NAME or torchvision:NAME: your checkpoint, or the file it names.")
@click.option("--architecture", help="Of a checkpoint: what cards or timm call it, or torchvision:NAME.")
@click.option("--output", "outputs", multiple=True, help="Of a regressor: what its value is called, NAME or NAME=UNIT.")
@click.option("--trust-pickle", is_flag=True, help="Read a pickle of rows, which runs any code in it.")
@click.option("--card", type=FILE, help="A card of your own in place of the one that is written for you.")
@click.option("--variant", type=click.Choice(["fp16", "int8"]), help="Of pictures: make it of lower precision.")
@click.option("--replace", is_flag=True, help="Take the name of a model that answers something else.")
@expected_options
def add(
    source: str, replace: bool, variant: Literal["fp16", "int8"] | None, expected: Expected, **options: Any
) -> None:
    """Bring a model of your own, compare it with what it came from, and install it.

    \b
    SOURCE is one of these:
      model.onnx                      a graph; its labels in its metadata or in --labels
      model.pth, model.safetensors    a PyTorch checkpoint, with --architecture
      timm:NAME, torchvision:NAME     a model of theirs, fetched, or with --weights
      pipeline.joblib, model.json …   rows: scikit-learn, XGBoost, LightGBM
      model.mar                       an archive of TorchServe

    Its card is written from what the source says. What nobody says is taken as usual, printed, and marked on the card,
    until --expected has shown that the answers for --examples are the original's.
    """  # noqa: D301 - click reads the character
    recognised = recognise(source)
    _check_options(recognised, options | {"variant": variant})
    stated = {key: options[key] for key in ("size", "resize", "resize_to", "mean", "std") if options[key] is not None}
    if options["card"] is not None and stated:
        raise click.ClickException("--card says all of the input: leave out --size, --resize, --mean and --std.")
    request = AddRequest(
        source=recognised,
        input=stated,
        outputs=_outputs(options["outputs"]),
        **{
            key: options[key]
            for key in ("name", "labels", "examples", "card", "weights", "architecture", "trust_pickle")
        },
    )
    make_variant = None
    if variant is not None:
        check_requirements("checkpoint")
        make_variant = partial(_make_variant, variant, expected, options["examples"])
    check = partial(expected.check, examples=options["examples"])
    store = open_store()
    stored, is_new = add_model(request, store, click.echo, replace=replace, check=check, make_variant=make_variant)
    click.echo(f"{'Added' if is_new else 'Already there:'} {stored.tag}{place_of(store)}")
    measure_and_warn(stored)


def _check_options(source: Source, options: Mapping[str, Any]) -> None:
    """Raise if an option does not go with the kind of source."""
    for option, kinds in _GO_WITH.items():
        key = "outputs" if option == "--output" else option.removeprefix("--").replace("-", "_")
        if options[key] not in (None, False, ()) and source.kind not in kinds:
            raise click.ClickException(f"{option} does not go with {source.text}, which is {_ARTICLES[source.kind]}.")


_ARTICLES: Mapping[Kind, str] = {
    "checkpoint": "a PyTorch checkpoint",
    "mar": "an archive of TorchServe",
    "onnx": "an ONNX graph",
    "rows": "a model of rows and brings its own card",
    "timm": "a model of timm's",
    "torchscript": "a module of TorchScript",
    "torchvision": "a model of torchvision's",
}


def _make_variant(
    variant: Literal["fp16", "int8"], expected: Expected, examples: Path | None, package: Path, folder: Path
) -> Path:
    return make_variant_package(package, variant, folder, expected, examples)


def _outputs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and unit of each output, given as NAME or NAME=UNIT."""
    return [(output, unit) for output, _, unit in (text.partition("=") for text in texts)]
