"""Adding a model of an operator's own: from any source to a package, and from there into the store."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from errors import CardError, StoreError
from export.labels import read_labels
from export.operator_graph import Notify
from export.parity import ParityReport
from export.rows.importing import package_from_model
from export.sources.kinds import check_requirements
from export.sources.names import check_contract, check_name, check_other_store, model_name
from export.sources.onnx_graph import read_graph
from export.sources.pictures import PictureModel, package_from_graph
from export.sources.request import AddRequest
from models.card import read_card
from models.package import StoredModel

if TYPE_CHECKING:
    from models.store import Store


def add(
    request: AddRequest,
    store: "Store",
    notify: Notify,
    *,
    replace: bool = False,
    check: Callable[[Path], None] | None = None,
    make_variant: Callable[[Path, Path], Path] | None = None,
) -> tuple[StoredModel, bool]:
    """Make a package of a model, compare it with what it came from, and install it.

    Everything is written beside the store and installed in one step at the end, so that whatever goes wrong leaves
    nothing behind.

    Args:
        request: the model, and what its operator says of it.
        store: where it is installed.
        notify: is told what is found, assumed and measured.
        replace: whether it may take the name of an installed model that takes or answers something else.
        check: looks at the finished package, and raises if it is not to be installed.
        make_variant: makes of the package in one folder that of a variant in another, and returns the latter.

    Returns:
        The stored model, and whether it was written now (False: the same content was there already).

    Raises:
        CardError: the name is none, reserved or taken, or the card is not valid.
        StoreError: something is not installed here, the source cannot be read, the model not be carried over, or there
            is no space; the message says what to do.
    """
    name = _name(request)
    check_requirements(request.source.kind)
    try:
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "package"
            package.mkdir()
            print_parity(_make_package(request, name, package, notify), notify)
            if check is not None:
                check(package)
            if make_variant is not None:
                package = make_variant(package, Path(folder) / "variant")
            _check_before_installing(package, store, replace)
            return store.import_package(package, own_weights=True)
    except OSError as error:
        raise StoreError(f"{name} could not be written: {error}. Nothing was added.") from error


def _check_before_installing(package: Path, store: "Store", replace: bool) -> None:
    """Raise unless a package that is complete may be installed: the one place for whatever has to hold of it."""
    card = read_card(package / "card.toml")
    others = [stored.card for stored in store.installed() if stored.card.name == card.name]
    if others and not replace:
        check_contract(card, others[0])
    check_other_store(card.name, package, store)


def _name(request: AddRequest) -> str:
    """Return what a model is called, once that is allowed."""
    name = request.name or model_name(request.source.stem)
    if request.card is not None:
        card_name = read_card(request.card).name
        if request.name not in (None, card_name):
            raise CardError(f"{request.card}: the card's name is {card_name!r}, but --name says {request.name!r}.")
        name = card_name
    check_name(name, has_card=request.card is not None)
    return name


def _make_package(request: AddRequest, name: str, package: Path, notify: Notify) -> ParityReport:
    kind, file = request.source.kind, request.source.file
    if file is not None and kind == "rows":
        return _rows_package(request, name, file, package, notify)
    if file is not None and kind == "onnx":
        facts = read_graph(file)
        model = PictureModel(file.name, facts.input, facts.outputs, facts.labels)
        return package_from_graph(request, name, model, lambda card: file, package, notify)
    from export.sources import pytorch  # PyTorch takes seconds to import

    if file is None:
        return pytorch.package_from_hub(request, name, package, notify)
    if kind == "mar":
        return pytorch.package_from_mar(request, name, file, package, notify)
    return pytorch.package_from_file(request, name, file, package, notify)


def _rows_package(request: AddRequest, name: str, file: Path, package: Path, notify: Notify) -> ParityReport:
    if request.card is not None or request.input:
        raise StoreError(
            f"{file}: is a model of rows, which brings its own card: --card, --size, --resize, --mean and --std are "
            "for pictures."
        )
    return package_from_model(
        name,
        file,
        package,
        notify,
        examples=request.examples,
        labels=read_labels(request.labels) if request.labels else (),
        outputs=request.outputs,
        trust_pickle=request.trust_pickle,
    )


def print_parity(report: ParityReport, notify: Notify) -> None:
    """Tell what a comparison measured."""
    notify(
        f"Largest difference from {report.reference}: {report.largest_difference:.1e}, "
        f"{report.label_flips} of {report.inputs} labels differ"
    )
    if report.near_threshold:
        notify(f"{report.near_threshold} rows beside that lie within float32's rounding of a tree's threshold")
