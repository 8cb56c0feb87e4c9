"""The weights of a TorchScript module, read from its file without running any of the code in it. Needs PyTorch."""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import torch

from errors import StoreError
from export.sources.archive import Archive, open_archive
from models.checkpoint import Weights

MOST_PICKLE_BYTES = 64 * 2**20
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Module:
    """Stands for any object of a class that the file itself defines: it keeps its attributes, and does nothing."""

    attributes: Any = None

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _TensorReader(pickle.Unpickler):
    """Reads the pickle of a TorchScript file; every name in it but those of tensors and lists is refused."""

    def __init__(self, archive: Archive, root: str, most_bytes: int) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl", MOST_PICKLE_BYTES)))
        self._archive, self._root, self._most_bytes = archive, root, most_bytes

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle" and (name.startswith("build_") or name == "restore_type_tag"):
            return _first
        raise pickle.UnpicklingError(f"{module}.{name} is not read")

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage as a tensor of one axis."""
        _, dtype, key, *_ = pid
        data = self._archive.read(f"{self._root}/data/{key}", self._most_bytes)
        return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def read_torchscript(file: Path) -> Weights:
    """Return the weights of a TorchScript module by the names that they have in its `state_dict`.

    Raises:
        StoreError: the file cannot be read, or holds no weights by name, such as after `torch.jit.freeze`.
    """
    with open_archive(file) as archive:
        root = next((name.partition("/")[0] for name in archive.names if name.endswith("/data.pkl")), "")
        try:
            weights = _weights(_TensorReader(archive, root, file.stat().st_size).load(), "")
        except StoreError:
            raise
        except Exception as error:  # a damaged pickle raises anything
            raise StoreError(f"{file}: its weights cannot be read ({type(error).__name__}: {error}).") from error
    if not weights:
        raise StoreError(f"{file}: holds no weights by name. Export the network as an ONNX graph, and add that.")
    return weights


def _tensor(storage: torch.Tensor, offset: int, size: Any, stride: Any, *more: Any) -> torch.Tensor:
    if math.prod(size) > storage.numel():
        raise pickle.UnpicklingError("a tensor is larger than its data")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset).clone(memory_format=torch.contiguous_format)


def _first(value: Any, *more: Any) -> Any:
    return value


def _weights(module: Any, prefix: str) -> Weights:
    weights: Weights = {}
    if not isinstance(module, _Module) or not isinstance(module.attributes, dict):
        return weights
    for name, value in module.attributes.items():
        if isinstance(value, torch.Tensor):
            weights[f"{prefix}{name}"] = value
        elif isinstance(value, _Module):
            weights |= _weights(value, f"{prefix}{name}.")
    return weights
