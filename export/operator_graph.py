"""An operator's ONNX graph as it comes: loaded alone, and its input and output compared with a card."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime as ort

from errors import StoreError
from models.card import ImageCard
from preprocessing.spec import ImageInput

Notify = Callable[[str], None]
"""Takes a line for the operator about something unusual."""


def load_whole(graph: Path, copy: Path, notify: Notify) -> ort.InferenceSession:
    """Copy a graph, put weights from other files inside, and load the copy without ONNX Runtime's optimisations.

    Args:
        graph: the operator's file; what it names as files of weights lies in its folder or below.
        copy: the file to write, alone in its folder, so that it cannot read weights from any other.
        notify: is told that weights were put inside.

    Raises:
        StoreError: ONNX Runtime cannot load it, or its weights cannot be read, or not from where it says they are.
    """
    shutil.copyfile(graph, copy)
    try:
        return _load_unoptimised(copy, graph)
    except StoreError:
        if not _put_weights_inside(graph, copy):
            raise
    session = _load_unoptimised(copy, graph)
    notify(f"{graph}: its weights, which lie in other files, are packed with it.")
    return session


def _put_weights_inside(graph: Path, copy: Path) -> bool:
    """Write a graph with the weights inside that it keeps in other files; False where it keeps none, or is no graph.

    The onnx package refuses absolute paths, those that leave the graph's folder, and links.
    """
    try:
        import onnx
        from onnx import external_data_helper
    except ImportError:
        return False
    try:
        model = onnx.load(graph, load_external_data=False)
    except Exception:
        return False
    before = model.ByteSize()
    try:
        external_data_helper.load_external_data_for_model(model, str(graph.parent))
        content = model.SerializeToString()
    except Exception as error:
        raise StoreError(
            f"{graph}: its weights cannot be packed with it ({first_line(error)}). Files of weights must lie beside "
            "the graph, in its folder or below, and be 2 GB at most together."
        ) from error
    copy.write_bytes(content)
    return bool(len(content) != before)


def _load_unoptimised(graph: Path, origin: Path) -> ort.InferenceSession:
    """Load a graph without ONNX Runtime's optimisations; `origin` is what messages call it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise StoreError(
            f"{origin}: ONNX Runtime cannot load it ({first_line(error)}). If its weights lie in files beside it, "
            "import it from an environment that has the `torch` extra, which packs them with it."
        ) from error


def check_signature(session: ort.InferenceSession, card: ImageCard, graph: Path, notify: Notify) -> None:
    """Compare a graph's input and output with those of the card.

    Args:
        session: of the graph.
        card: says the input's shape, and has a label for each output.
        graph: what messages call the graph.
        notify: is called with what is unusual about the graph.

    Raises:
        StoreError: they differ; the message says how.
    """
    outputs = session.get_outputs()
    batch, *shape = input_shape(session, graph)
    if not _has_shape(shape, card.input):
        hint = _shape_hint(shape, card.input)
        raise StoreError(f"{graph}: its input is {shape}, but the card's is {list(card.input.shape)}.{hint}")
    if isinstance(batch, int):
        if batch != 1:
            raise StoreError(f"{graph}: its batch is fixed at {batch}. Export it with a dynamic batch, or with 1.")
        notify(f"{graph}: its batch is fixed at 1, so it is served without batching.")
    names = [node.name for node in outputs]
    if len(outputs) > 1 and "logits" not in names:
        raise StoreError(f"{graph}: has outputs {', '.join(names)}; name the one to use `logits`.")
    output = outputs[names.index(output_name(session))]
    if len(output.shape) != 2:
        raise StoreError(f"{graph}: its output {output.name} must be of rank 2, N×K; it is {output.shape}.")
    if isinstance(output.shape[1], int) and output.shape[1] != len(card.labels):
        raise wrong_number_of_logits(graph, len(card.labels), (output.shape[1],))


def input_shape(session: ort.InferenceSession, graph: Path) -> list[int | str | None]:
    """Return the shape of a graph's one input, of rank 4; an axis that may be any has a name or None.

    Raises:
        StoreError: it has other inputs; the message lists them.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        listed = ", ".join(f"{node.name} {node.type} {node.shape}" for node in inputs)
        raise StoreError(f"{graph}: must have one input of rank 4, N×3×h×w float32; it has {listed}.")
    return list(inputs[0].shape)


def output_name(session: ort.InferenceSession) -> str:
    """Return the name of the output that holds the logits: `logits`, or that of the first."""
    names: list[str] = [node.name for node in session.get_outputs()]
    return "logits" if "logits" in names else names[0]


def wrong_number_of_logits(graph: Path, labels: int, outputs: tuple[int, ...]) -> StoreError:
    """Return the error of a graph whose outputs, of this shape without the batch, are not one for each label."""
    return StoreError(f"{graph}: gives {'×'.join(map(str, outputs))} logits, but there are {labels} labels.")


def first_line(error: Exception) -> str:
    """Return the first line of a library's message, for one of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _has_shape(shape: Sequence[int | str | None], spec: ImageInput) -> bool:
    """Return whether a graph's input, without its batch, can be the card's; a side that is no number may be any."""
    pairs = zip(shape, spec.shape, strict=True)
    return all(side == expected for side, expected in pairs if isinstance(side, int))


def _shape_hint(shape: Sequence[int | str | None], spec: ImageInput) -> str:
    """Return which lines of the card's input section would fit a graph's input; empty if no other ones would."""
    for layout in ("nchw", "nhwc"):
        for channels, count in (("rgb", 3), ("grey", 1)):
            ones = (1.0,) * count
            changes = {"layout": layout, "channels": channels, "mean": ones, "std": ones}
            if _has_shape(shape, spec.model_copy(update=changes)):
                return f' The card would need layout = "{layout}" and channels = "{channels}" under [input].'
    return ""
