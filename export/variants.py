"""Making a variant of a model's package: lower precision or an early exit. Needs the `torch` extra.

Only `predict.onnx` is another file than in the plain package: a graph of lower precision, which holds its weights
inside itself, or one with an early exit. The weights and the explain graph stay as they are, and the goldens keep the
plain graph's references.
"""

import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
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
from export.early_exit import early_exit_graph
from export.labelled_data import LabelledBatch, LabelledData, LabelledDataSource, Split
from export.parity import random_inputs
from export.variant_comparison import ComparedModel, compare_with_fp32
from export.variant_report import VariantReport
from models.card import Card, ImageCard, RowCard, read_card
from models.goldens import golden_inputs, mark_as_variant, read_goldens
from models.package import EARLY_EXIT_VARIANT, EXIT, EXPLANATIONS, GRAPH, PARITY, WEIGHTS, VariantName, file_digests
from serving.self_check import golden_batch

LABELLED_PICTURES, LABELLED_ROWS = 512, 20_000
"""Number of labelled items that the AUC is measured on; with fewer, a fall of 0.002 would be chance."""
CALIBRATION_SHARE = 4
"""int8 is calibrated on other labelled items, a quarter as many."""
QUANTISED_OPERATORS = ["Conv", "Gemm", "MatMul"]
"""Operators that int8 replaces. When every operator that ONNX Runtime can quantise was replaced, kidney-stone's goldens
differed by 0.038 instead of 0.027, and the AUC on 96 phantoms fell by 0.0013 instead of 0.0002."""


def make_variant(package: Path, variant: VariantName, folder: Path, source: LabelledDataSource | None) -> VariantReport:
    """Write the package of a variant, unless it is worse than fp32; see `export.variant_comparison`.

    Args:
        package: the folder of the plain package; it is only read.
        variant: `int8` is static quantisation, calibrated on the goldens and on labelled items if there are any; `fp16`
            halves every weight and operation, while inputs and outputs stay float32; with `early-exit` the head in
            `exit.safetensors` answers what the card calls clear.
        folder: where to write; it is created if it does not exist.
        source: the model's labelled data, if it has any.

    Raises:
        StoreError: the graph cannot be made, or it is worse than fp32; the message says in what.
    """
    card = read_card(package / "card.toml")
    items = LABELLED_PICTURES if isinstance(card, ImageCard) else LABELLED_ROWS
    for name in (*file_digests(package), EXPLANATIONS, PARITY):
        if name != GRAPH and (package / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / name, folder / name)
    is_early_exit = variant == EARLY_EXIT_VARIANT
    try:
        if variant == EARLY_EXIT_VARIANT:
            (folder / GRAPH).write_bytes(early_exit_graph(card, package).SerializeToString(deterministic=True))
        else:
            calibration = _calibration_inputs(card, package, source, items // CALIBRATION_SHARE)
            _write_lower_precision_graph(package / GRAPH, variant, folder / GRAPH, card, calibration)
        backend = (EarlyExitBackend if is_early_exit else OnnxBackend)(folder / GRAPH)
    except (StoreError, ImportError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise StoreError(f"{card.name} cannot be made {variant} ({reason}). Keep fp32.") from error
    goldens, _ = read_goldens(package)
    labelled_data = _labelled_data(card, source, "validate", items)
    fp32 = ComparedModel(OnnxBackend(package / GRAPH), _total_size(package / GRAPH, package / WEIGHTS))
    needed = (folder / WEIGHTS, folder / EXIT) if is_early_exit else ()
    lowered = ComparedModel(backend, _total_size(folder / GRAPH, *needed))
    report = compare_with_fp32(card, variant, goldens, labelled_data, fp32, lowered)
    mark_as_variant(folder, variant, report.tolerance)
    report.write(folder)
    return report


def _total_size(*files: Path) -> int:
    return sum(path.stat().st_size for path in files if path.exists())


def _write_lower_precision_graph(
    graph: Path, precision: Literal["fp16", "int8"], target: Path, card: Card, calibration: Iterator[Batch]
) -> None:
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), _quiet_root_logger():
        warnings.simplefilter("ignore")  # fp16 warns of every weight that is clipped; the comparison shows the effect
        prepared = _prepare_graph(graph, Path(scratch))
        if precision == "int8":
            _quantise(prepared, target, calibration)
        else:
            halved = convert_float_to_float16(onnx.load(prepared), keep_io_types=True)
            target.write_bytes(halved.SerializeToString(deterministic=True))
    lowered = onnx.load(target).graph
    if not (
        any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in lowered.initializer)
        or any(node.op_type == "QuantizeLinear" for node in lowered.node)
    ):
        raise StoreError(f"{card.name}: there is nothing in its graph that {precision} could be made of. Keep fp32.")


def _prepare_graph(graph: Path, scratch: Path) -> Path:
    """Write the graph with its weights inside, batch norms folded and shapes inferred; return its path in `scratch`."""
    whole, prepared = scratch / "whole.onnx", scratch / "prepared.onnx"
    whole.write_bytes(onnx.load(graph).SerializeToString(deterministic=True))
    quant_pre_process(whole, prepared, skip_symbolic_shape=True)
    return prepared


def _quantise(prepared: Path, target: Path, calibration: Iterator[Batch]) -> None:
    """Write the int8 graph.

    Weights get 7 bits (`reduce_range`): on CPUs without VNNI, 16 bits hold the sum of two products, and saturate.
    """
    input_name = onnx.load(prepared).graph.input[0].name
    inputs = ({input_name: batch} for batch in calibration)
    quantize_static(
        prepared,
        target,
        SimpleNamespace(get_next=lambda: next(inputs, None)),
        op_types_to_quantize=QUANTISED_OPERATORS,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _calibration_inputs(card: Card, package: Path, source: LabelledDataSource | None, items: int) -> Iterator[Batch]:
    """Yield inputs to calibrate on, one at a time, since a graph's batch may be fixed at 1.

    Without labelled data, rows are drawn from the ranges of the features, other ones than the comparison uses.
    """
    yield from golden_batch(card, golden_inputs(package))[:, None]
    if labelled_data := _labelled_data(card, source, "calibrate", items):
        for batch in labelled_data.batches:
            yield from batch.inputs[:, None]
    elif isinstance(card, RowCard):
        yield from random_inputs(card, items, seed=1)[:, None]


def _labelled_data(card: Card, source: LabelledDataSource | None, split: Split, items: int) -> LabelledData | None:
    batches = source.labelled(card, split, items) if source else None
    if source is None or batches is None:
        return None
    return LabelledData(source.NAME, source.POSITIVE, _with_progress_bar(batches, split, items))


def _with_progress_bar(batches: Iterator[LabelledBatch], task: str, total: int) -> Iterator[LabelledBatch]:
    """Yield the batches, and show how far they are in a terminal."""
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task(task, total=total)
        for batch in batches:
            yield batch
            progress.advance(bar, len(batch.labels))


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Keep the quantiser, which logs its steps to the root logger, to errors."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
