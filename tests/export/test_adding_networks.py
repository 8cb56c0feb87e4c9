"""`vitrine models add` of PyTorch's networks: what is served is what they and their libraries' transforms give."""

import json
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models, transforms  # type: ignore[import-untyped]

from backends.onnx import OnnxBackend
from errors import StoreError
from explain.autograd import AutogradExplainer
from explain.base import METHOD_NAMES
from explain.onnx import OnnxExplainer
from export.sources.archive import open_archive
from export.sources.kinds import file_kind
from export.sources.networks import Checkpoint, timm_network, torchvision_network
from export.sources.picture_card import picture_input
from export.sources.pictures import check_transform
from export.sources.torchscript import read_torchscript
from export.sources.torchserve import read_mar
from models import store
from models.assumed import Assumable
from models.card import as_image_card
from models.goldens import golden_inputs
from models.package import StoredModel
from postprocessing.classification import softmax
from preprocessing.decode import decode
from preprocessing.prepare import prepare
from serving.self_check import golden_batch
from tests.conftest import ROOT
from tests.export.graphs import run_add

DRAWINGS = golden_inputs(ROOT / "models" / "imagenet")
SMALL = "squeezenet1_1"


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(3)
    return models.get_model(SMALL, num_classes=4).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, network: Any) -> Path:
    folder = tmp_path_factory.mktemp("files")
    torch.save(network.state_dict(), folder / "fine-tuned.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; TorchServe's users have it
        torch.jit.save(torch.jit.script(network), folder / "scripted.pt")
    (folder / "labels.txt").write_text("a\nb\nc\nd\n")
    return folder


def served(stored: StoredModel, data: bytes) -> np.ndarray:
    card = as_image_card(stored.card)
    tensor = prepare(data, card.limits, card.input).tensor
    return np.asarray(softmax(OnnxBackend(stored.graph).run(tensor[None]).logits)[0])


def test_a_fine_tuned_network_of_torchvisions_is_served_as_it_answers_behind_torchvisions_transform(
    home: Path, folder: Path, network: Any
) -> None:
    result = run_add(
        folder / "fine-tuned.pth", "--architecture", f"torchvision:{SMALL}", "--labels", folder / "labels.txt"
    )
    assert result.exit_code == 0, result.output
    assert "these weights may have been trained with others" in result.output
    stored = store.find("fine-tuned")
    assert as_image_card(stored.card).assumed == get_args(Assumable)
    assert stored.card.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert stored.parity()["reference"].startswith("PyTorch")
    transform = models.get_model_weights(SMALL).DEFAULT.transforms()
    for _, data in DRAWINGS:
        image = Image.fromarray(decode(data, as_image_card(stored.card).limits))
        with torch.inference_mode():
            theirs = network(transform(image)[None]).softmax(1)[0].numpy()
        assert np.abs(served(stored, data) - theirs).max() <= 1e-3
    assert stored.explain_graph is not None and stored.explained_by == "graph-gradient"
    tensors = golden_batch(stored.card, DRAWINGS)
    targets, methods = np.arange(len(tensors)) % 5 - 1, frozenset(METHOD_NAMES)
    explained = OnnxExplainer(stored.explain_graph).run(tensors, targets, methods)
    expected = AutogradExplainer(network, "classifier.2").run(tensors, targets, methods)
    for method, maps in expected.maps.items():
        assert np.abs(explained.maps[method] - maps).max() <= 1e-4 * maps.max()


def transformed_alike(build: Callable[[str, Checkpoint | None], Any], name: str, weights: Path) -> None:
    """Fail unless the card's transform is the library's, for a checkpoint that is taken for its own."""
    found = build(name, Checkpoint(weights, weights.name, is_own=False))
    assert not found.is_own and found.labels is not None and len(found.labels) == 1000
    entry = picture_input({}, found.input)
    assert not entry.assumed
    from pydantic import TypeAdapter

    from models.card import ImageCard

    facts = {"name": "x", "title": "", "description": "", "licence": "", "data": "", "architecture": "onnx"}
    card = TypeAdapter(ImageCard).validate_python(
        facts | {"task": "image-classification", "labels": ["a", "b"], "input": entry.values}
    )
    check_transform(card, DRAWINGS, found.transform)
    other = card.model_copy(update={"input": card.input.model_copy(update={"resize": "stretch"})})
    with pytest.raises(StoreError, match="grey levels"):
        check_transform(other, DRAWINGS, found.transform)


def test_the_card_of_a_published_network_says_its_librarys_own_transform(tmp_path: Path) -> None:
    import timm

    file = tmp_path / Path(models.get_model_weights(SMALL).DEFAULT.url).name
    torch.save(models.get_model(SMALL).state_dict(), file)
    transformed_alike(torchvision_network, SMALL, file)
    save_file(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "model.safetensors")
    transformed_alike(timm_network, "mobilenetv3_small_050.lamb_in1k", tmp_path / "model.safetensors")


def test_weights_that_are_nowhere_are_named_with_where_they_go(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    for source, url in (
        ("timm:resnet18.a1_in1k", "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"),
        (f"torchvision:{SMALL}", models.get_model_weights(SMALL).DEFAULT.url),
    ):
        result = run_add(source)
        assert result.exit_code == 1 and f"Fetch {url}" in result.output and "--weights" in result.output, result.output
    assert f"put it at {tmp_path}/checkpoints/" in result.output
    for source, message in (("timm:resnet81", "Did you mean"), ("timm:resnet18.mine", "Known: resnet18.a1_in1k")):
        result = run_add(source)
        assert result.exit_code == 1 and message in result.output


def test_a_checkpoint_that_does_not_fit_or_says_nothing_is_refused(home: Path, folder: Path) -> None:
    file, labels = folder / "fine-tuned.pth", folder / "labels.txt"
    for options, message in (
        ((), "nothing says which network these weights are of"),
        (("--architecture", "resnet18"), "do not fit timm's resnet18"),
        (("--architecture", "mlp"), "takes rows"),
        (("--architecture", f"torchvision:{SMALL}"), "nothing says what the 4 outputs mean"),
    ):
        result = run_add(file, *options, *(("--labels", labels) if "mlp" in options else ()))
        assert result.exit_code == 1 and message in result.output, result.output
    assert store.installed() == []


def test_a_torchscript_module_gives_its_weights_and_runs_nothing(folder: Path, network: Any, tmp_path: Path) -> None:
    assert file_kind(folder / "scripted.pt") == "torchscript"
    weights = read_torchscript(folder / "scripted.pt")
    expected = network.state_dict()
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(Evil(tmp_path / "executed")))
        archive.writestr("evil/constants.pkl", b"")
    with pytest.raises(StoreError, match="is not read"):
        read_torchscript(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return subprocess.call, ([sys.executable, "-c", f"open({str(self.path)!r}, 'w')"],)


def mar_file(path: Path, weights: Path, labels: object = None, handler: str = "image_classifier", **files: str) -> Path:
    """Write what torch-model-archiver writes."""
    manifest = {
        "createdOn": "30/11/2026 10:00:00",
        "runtime": "python",
        "model": {"modelName": "m", "serializedFile": weights.name, "handler": handler, "modelVersion": "1.0"},
        "archiverVersion": "0.12.0",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.write(weights, weights.name)
        if labels is not None:
            archive.writestr("index_to_name.json", json.dumps(labels))
        for name, text in files.items():
            archive.writestr(name.replace("__", "."), text)
    return path


def test_an_archive_of_torchserve_is_served_as_its_own_handler_answers(
    home: Path, folder: Path, network: Any, tmp_path: Path
) -> None:
    labels = {"0": ["n1", "tench"], "1": ["n2", "shark"], "2": ["n3", "ray"], "3": ["n4", "cock"]}
    code = f"open({str(tmp_path / 'executed')!r}, 'w')"
    mar = mar_file(tmp_path / "fish.mar", folder / "scripted.pt", labels, model__py=code)
    result = run_add(mar, "--architecture", f"torchvision:{SMALL}")
    assert result.exit_code == 0, result.output
    assert "ASSUMED" not in result.output and not (tmp_path / "executed").exists()
    stored = store.find("fish")
    assert stored.card.labels == ("tench", "shark", "ray", "cock") and not as_image_card(stored.card).assumed
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    handler = transforms.Compose([*steps, transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    for _, data in DRAWINGS:
        image = Image.fromarray(decode(data, as_image_card(stored.card).limits))
        with torch.inference_mode():
            theirs = network(handler(image)[None]).softmax(1)[0].numpy()
        assert np.abs(served(stored, data) - theirs).max() <= 1e-3
    assert stored.explain_graph is not None and stored.explained_by == "graph-gradient"
    tensors = golden_batch(stored.card, DRAWINGS)
    targets, methods = np.arange(len(tensors)) % 5 - 1, frozenset(METHOD_NAMES)
    explained = OnnxExplainer(stored.explain_graph).run(tensors, targets, methods)
    expected = AutogradExplainer(network, "classifier.2").run(tensors, targets, methods)
    for method, maps in expected.maps.items():
        assert np.abs(explained.maps[method] - maps).max() <= 1e-4 * maps.max()


def test_an_archive_with_code_of_its_own_is_refused_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    weights = folder / "fine-tuned.pth"
    for handler, files, message in (
        ("my_handler.py:handle", {"my_handler__py": ""}, r"unzip -j .* fine-tuned.pth.*--architecture"),
        ("image_classifier", {"image_classifier__py": ""}, "is code of its own"),
        ("object_detector", {}, "classify pictures"),
    ):
        mar = mar_file(tmp_path / "m.mar", weights, None, handler, **files)
        with pytest.raises(StoreError, match=message):
            read_mar(mar, tmp_path)


@pytest.mark.parametrize("name", ["../evil.pth", "/etc/evil.pth", "a/../../evil.pth", "c:\\evil.pth"])
def test_an_archive_whose_names_lead_out_of_it_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")
        archive.writestr(name, "")
    with pytest.raises(StoreError, match="leads out of it"):
        read_mar(tmp_path / "m.mar", tmp_path)


def test_an_archive_that_is_far_larger_inside_is_refused(tmp_path: Path) -> None:
    import tarfile

    with zipfile.ZipFile(tmp_path / "m.mar", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")
        archive.writestr("weights.pth", bytes(20 * 2**20))
    (tmp_path / "zeros").write_bytes(bytes(20 * 2**20))
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "zeros", "zeros")
    for name in ("m.mar", "m.tar.gz"):
        with pytest.raises(StoreError, match="no archive of weights"), open_archive(tmp_path / name):
            pass


def test_what_a_tar_says_of_its_files_may_not_be_far_larger_than_the_tar(tmp_path: Path) -> None:
    import tarfile

    def pax(name: str, size: int) -> tarfile.TarInfo:
        header = tarfile.TarInfo(name)
        header.pax_headers = {"comment": "x" * size}
        return header

    long = [tarfile.TarInfo("a/" * 2**20)]
    for name, form, headers in (
        ("name", tarfile.GNU_FORMAT, long),
        ("pax", tarfile.PAX_FORMAT, [pax("a", 2**21)]),
        ("many", tarfile.GNU_FORMAT, [tarfile.TarInfo("a")] * 4000),
        ("pairs", tarfile.PAX_FORMAT, [pax("a", 2**15)] * 100),
    ):
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz", format=form) as packed:
            for header in headers:
                packed.addfile(header)
        with pytest.raises(StoreError, match="no archive"), open_archive(tmp_path / f"{name}.tar.gz"):
            pass


def test_an_archive_that_cannot_be_read_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")
    data = (tmp_path / "m.mar").read_bytes()
    place = data.index(b"PK\x01\x02")
    (tmp_path / "version.mar").write_bytes(data[: place + 6] + b"\xff" + data[place + 7 :])
    name = data.index(b"MAR-INF", place)
    damaged = data[: place + 9] + b"\x08" + data[place + 10 : name] + b"\xff" + data[name + 1 :]  # claims UTF-8
    (tmp_path / "name.mar").write_bytes(damaged)
    for file in ("version.mar", "name.mar"):
        with pytest.raises(StoreError, match="damaged archive"):
            file_kind(tmp_path / file)
        with pytest.raises(StoreError, match="no archive that can be read"), open_archive(tmp_path / file):
            pass
    with pytest.raises(OSError, match="full"), open_archive(tmp_path / "m.mar"):
        raise OSError("full")  # what its reader does is no damage


def test_an_archive_may_be_a_tar(tmp_path: Path, folder: Path) -> None:
    import tarfile

    mar = mar_file(tmp_path / "m.mar", folder / "fine-tuned.pth", ["a", "b", "c", "d"])
    with zipfile.ZipFile(mar) as archive:
        archive.extractall(tmp_path / "inside")
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "inside", ".")
    archived = read_mar(tmp_path / "m.tar.gz", tmp_path)
    assert archived.labels == ["a", "b", "c", "d"] and archived.name == "fine-tuned.pth"
    assert archived.weights.read_bytes() == (folder / "fine-tuned.pth").read_bytes()
