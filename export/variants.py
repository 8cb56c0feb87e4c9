"""A model's package → a variant of it, behind a gate of its own. Needs the `torch` extra.

Only `predict.onnx` is another one: of lower precision, and then it holds its weights inside itself, or with an early
exit. The weights and the explain graph beside it stay as they are, and the goldens keep the plain graph's references.
"""

import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from rich.console import Console
from rich.progress import Progress

from backends.base import Batch
from backends.onnx import EarlyExitBackend, OnnxBackend
from errors import StoreError
from export.early_exit import with_exit
from export.labelled import Items, Labelled, Split
from export.parity import golden_batch, random_inputs
from export.variant_gate import Side, Variant, measure, write
from models.card import Card, ImageCard, RowCard, read_card
from models.goldens import golden_inputs, loosen, read_goldens
from models.package import EARLY_EXIT, EXIT, EXPLANATIONS, GRAPH, PARITY, WEIGHTS, Kind, files_of
from models.registry import source_of

ITEMS_OF_PICTURES, ITEMS_OF_ROWS = 512, 20_000
"""Labelled items that AUC is taken on; with fewer, a fall of 0.002 would be chance."""
CALIBRATING = 4
"""A quarter as many others calibrate int8."""
QUANTISED = ["Conv", "Gemm", "MatMul"]
"""Operators that int8 is for. With every one that ONNX Runtime can quantise, kidney-stone's goldens came out 0.038 away
instead of 0.027, and AUC on 96 phantoms fell by 0.0013 instead of 0.0002."""


def make(package: Path, kind: Kind, made: Path) -> Variant:
    """Write the variant of a package that passes the gate of `export.variant_gate`.

    Args:
        package: the folder of the plain package; read only.
        kind: `int8`: static quantisation, calibrated on the goldens and, where the model has them, on labelled items;
            `fp16`: every weight and operation halved, inputs and outputs still float32; `early-exit`: the head in
            `exit.safetensors` answers what the card calls clear.
        made: the folder to write into; made if it is not there.

    Raises:
        StoreError: the graph cannot be made, or the variant breaks the gate; the message says how.
    """
    card = read_card(package / "card.toml")
    items = ITEMS_OF_PICTURES if isinstance(card, ImageCard) else ITEMS_OF_ROWS
    for name in (*files_of(package), EXPLANATIONS, PARITY):
        if name != GRAPH and (package / name).exists():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / name, made / name)
    try:
        if kind == EARLY_EXIT:
            (made / GRAPH).write_bytes(with_exit(card, package).SerializeToString(deterministic=True))
        else:
            _lower(package, kind, made, card, items // CALIBRATING)
        backend = (EarlyExitBackend if kind == EARLY_EXIT else OnnxBackend)(made / GRAPH)
    except (StoreError, ImportError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise StoreError(f"{card.name} cannot be made {kind} ({reason}). Keep fp32.") from error
    goldens, _ = read_goldens(package)
    plain = Side(OnnxBackend(package / GRAPH), _bytes(package, package / WEIGHTS))
    validating = labelled_of(card, "validate", items)
    beside = (made / WEIGHTS, made / EXIT) if kind == EARLY_EXIT else ()
    found = measure(card, kind, goldens, validating, plain, Side(backend, _bytes(made, *beside)))
    loosen(made, found.tolerance, kind)
    write(found, made)
    return found


def _bytes(package: Path, *weights: Path) -> int:
    return sum(each.stat().st_size for each in (package / GRAPH, *weights) if each.exists())


def _lower(package: Path, precision: Literal["fp16", "int8"], made: Path, card: Card, calibrating: int) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # fp16 says of every weight that it is clipped; the gate says if it matters
        prepared = _prepared(package / GRAPH, Path(folder))
        if precision == "int8":
            _quantise(prepared, made / GRAPH, card, package, calibrating)
        else:
            halved = convert_float_to_float16(onnx.load(prepared), keep_io_types=True)
            (made / GRAPH).write_bytes(halved.SerializeToString(deterministic=True))
    if not _is_lowered(onnx.load(made / GRAPH)):
        raise StoreError(f"{card.name}: there is nothing in its graph that {precision} could be made of. Keep fp32.")


def _is_lowered(model: onnx.ModelProto) -> bool:
    halves = any(each.data_type == onnx.TensorProto.FLOAT16 for each in model.graph.initializer)
    return halves or any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def labelled_of(card: Card, split: Split, items: int) -> Labelled | None:
    """So many labelled items of a model, with a progress bar in a terminal; None where it has none."""
    source = source_of(card)
    drawn = source.labelled(card, split, items) if source else None
    return Labelled(source.NAME, source.POSITIVE, _shown(drawn, split, items)) if source and drawn else None


def _shown(drawn: Iterator[Items], task: str, total: int) -> Iterator[Items]:
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task(task, total=total)
        for each in drawn:
            yield each
            progress.advance(bar, len(each.labels))


def _prepared(graph: Path, folder: Path) -> Path:
    """The graph with its weights inside, batch norms folded and shapes inferred; a file in `folder`."""
    whole, prepared = folder / "whole.onnx", folder / "prepared.onnx"
    whole.write_bytes(onnx.load(graph).SerializeToString(deterministic=True))
    quant_pre_process(whole, prepared, skip_symbolic_shape=True)
    return prepared


def _quantise(prepared: Path, graph: Path, card: Card, package: Path, items: int) -> None:
    """Write the int8 graph, calibrated on the goldens and so many labelled items.

    Weights get 7 bits (`reduce_range`): on CPUs without VNNI, 16 bits hold the sum of two products, and saturate.
    """
    quantize_static(
        prepared,
        graph,
        _Reader(onnx.load(prepared).graph.input[0].name, _calibrating(card, package, items)),
        op_types_to_quantize=QUANTISED,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _calibrating(card: Card, package: Path, items: int) -> Iterator[Batch]:
    """One at a time, since a graph's batch may be fixed at 1.

    Rows of a model without labelled data come from anywhere in their range, other ones than the gate looks at.
    """
    goldens = golden_batch(card, golden_inputs(package))
    yield from goldens[:, None]
    if labelled := labelled_of(card, "calibrate", items):
        for each in labelled.items:
            yield from each.inputs[:, None]
    elif isinstance(card, RowCard):
        yield from random_inputs(card, items, seed=1)[:, None]


class _Reader:
    """What ONNX Runtime's calibration takes its inputs from."""

    def __init__(self, name: str, batches: Iterator[Batch]) -> None:
        self._name, self._batches = name, batches

    def get_next(self) -> dict[str, Batch] | None:
        """One input, by name; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the root logger, which the quantiser tells its steps, to errors."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
