"""Tensors of a PyTorch checkpoint, read without running anything that it asks for.

A checkpoint is a zip file: `data.pkl` holds a pickle in which each tensor points to an entry of
raw numbers. Unpickling normally imports and calls whatever the file names. Here only the names
that stand for tensors and containers mean something; every other name is replaced by an empty
object that does nothing, and names of Python's own library that no checkpoint needs are refused.
Numbers are read for the wanted tensors alone, so the state of an optimizer costs no memory.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from hamgnn_solve.core.errors import InputError

__all__ = ["Checkpoint", "read_checkpoint"]

STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}

# What data of other programs in a checkpoint is made of, as far as Python's own library goes
# (xrange, long and unicode are Python 2's names).
HARMLESS = {
    "_codecs": {"encode"},
    "argparse": {"Namespace"},
    "builtins": {
        *("bool", "bytes", "complex", "float", "frozenset", "int", "long", "object", "range"),
        *("slice", "str", "type", "unicode", "xrange"),
    },
    "collections": {"Counter", "deque"},
    "copyreg": {"_reconstructor"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "functools": {"partial"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "types": {"SimpleNamespace"},
    "uuid": {"UUID"},
}

CONTAINERS = {
    ("builtins", "bytearray"): bytearray,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "set"): set,
    ("builtins", "tuple"): tuple,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("torch", "Size"): tuple,
}

# Pickles of the protocol that PyTorch writes call these modules as Python 2 did.
OLD_MODULES = {"__builtin__": "builtins", "commands": "subprocess", "copy_reg": "copyreg"}

# Faults that a damaged pickle can lead to while it is read.
DAMAGE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Checkpoint:
    """State dict of a network.

    Parameters
    ----------
    path : Path
        The file.
    tensors : dict of str to Tensor
        Parameters and buffers by name, on the processor.
    sha256 : str
        Checksum of the file.
    epoch : int or None
        Training epoch, where the file tells it.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    sha256: str = ""
    epoch: int | None = None


class _ForbiddenNameError(Exception):
    """A name that no checkpoint needs."""


class _Placeholder:
    """Takes the place of an object of another program; keeps nothing, does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> _Placeholder:  # noqa: ARG004
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...

    def add(self, item: object) -> None: ...


@dataclass(frozen=True)
class _Storage:
    """Raw numbers: an entry of the zip file."""

    dtype: torch.dtype
    key: str


@dataclass(frozen=True)
class _StoredTensor:
    """A tensor whose numbers have not been read."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _stored_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _StoredTensor:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise ValueError("a tensor without numbers")
    if any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("a tensor of impossible shape")
    return _StoredTensor(storage, offset, tuple(size), tuple(stride))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _Unpickler(pickle.Unpickler):
    """Reads containers, numbers, strings and tensors; knows nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of the file; nothing is imported."""
        module = OLD_MODULES.get(module, module)
        functions: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _stored_tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) in functions:
            return functions[module, name]
        if (module, name) in CONTAINERS:
            return CONTAINERS[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        own = module.partition(".")[0] in sys.stdlib_module_names
        if own and name not in HARMLESS.get(module, ()):
            raise _ForbiddenNameError(f"{module}.{name}")
        return type(name.rpartition(".")[2], (_Placeholder,), {"__module__": module})

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the raw numbers that a tensor points to."""
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("an unknown kind of tensor")
        return _Storage(dtype, key)


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read the state dict of a checkpoint of PyTorch Lightning, or a bare one.

    Parameters
    ----------
    path : path
        A file written by `torch.save` (PyTorch 1.6 or later): a dict with the entry
        "state_dict", or the state dict itself.

    Returns
    -------
    Checkpoint

    Raises
    ------
    InputError
        When the file cannot be read, is damaged, is no checkpoint, holds whole Python objects in
        place of tensors, or asks Python to run something.
    """
    path = Path(path)
    _check_kind(path)
    try:
        with zipfile.ZipFile(path) as archive:
            content, folder = _content(path, archive)
            state, epoch = _state_dict(path, content)
            tensors = _read_tensors(archive, folder, state)
    except _ForbiddenNameError as error:
        raise InputError(
            f"The checkpoint {path} asks Python for {error}, which no checkpoint needs and which "
            "was not run; do not use this file."
        ) from error
    except (zipfile.BadZipFile, OSError, *DAMAGE) as error:
        raise InputError(
            f"The checkpoint {path} is damaged ({error}); download or copy it again."
        ) from error
    return Checkpoint(path, tensors, _checksum(path), epoch)


def _check_kind(path: Path) -> None:
    """Tell from its first bytes what a file is that is not a readable zip file."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(
            f"The checkpoint {path} cannot be read ({error.strerror}); give a .ckpt file."
        ) from error
    if start[:1] == b"\x80":
        raise InputError(
            f"{path} is a bare pickle of Python objects, which cannot be read without running "
            "code; load it with the Python environment it was made in and write "
            "torch.save(model.state_dict(), 'model.ckpt') there."
        )
    if start[:2] != b"PK":
        raise InputError(
            f"{path} is not a PyTorch checkpoint; give the .ckpt file that training wrote."
        )
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"The checkpoint {path} is cut off (its table of contents at the end is missing); "
            "download or copy it again."
        )


def _content(path: Path, archive: zipfile.ZipFile) -> tuple[Any, str]:
    """Return what the pickle holds and the folder of its raw numbers in the archive."""
    names = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(names) != 1:
        raise InputError(
            f"{path} is a zip file but not a PyTorch checkpoint; give the .ckpt file that "
            "training wrote."
        )
    folder = names[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != (
        sys.byteorder.encode()
    ):
        raise InputError(
            f"The checkpoint {path} was written on a machine of the other byte order; "
            "save it again on one like this."
        )
    with archive.open(names[0]) as file:
        return _Unpickler(file).load(), folder


def _state_dict(path: Path, content: Any) -> tuple[dict[str, _StoredTensor], int | None]:
    if isinstance(content, _Placeholder):
        kind = f"{type(content).__module__}.{type(content).__name__}"
        raise InputError(
            f"{path} holds a whole Python object ({kind}), not its tensors; load it with the "
            "Python environment it was made in and write "
            "torch.save(model.state_dict(), 'model.ckpt') there."
        )
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise InputError(
            f"{path} holds no state dict; give the .ckpt file that training wrote, or one written "
            "by torch.save(model.state_dict(), 'model.ckpt')."
        )
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, _StoredTensor):
            raise InputError(
                f"The state dict of {path} has an entry {key} that is not a tensor; write it with "
                "torch.save(model.state_dict(), 'model.ckpt')."
            )
    epoch = content.get("epoch")
    return state, epoch if type(epoch) is int else None


def _read_tensors(
    archive: zipfile.ZipFile, folder: str, state: dict[str, _StoredTensor]
) -> dict[str, torch.Tensor]:
    flat: dict[_Storage, torch.Tensor] = {}
    tensors = {}
    for name, stored in state.items():
        storage = stored.storage
        if storage not in flat:
            content = bytearray(archive.read(f"{folder}data/{storage.key}"))
            flat[storage] = (
                torch.frombuffer(content, dtype=storage.dtype)
                if content
                else torch.empty(0, dtype=storage.dtype)
            )
        numbers = flat[storage]
        last = sum((n - 1) * step for n, step in zip(stored.size, stored.stride, strict=True))
        if 0 not in stored.size and stored.offset + last >= len(numbers):
            raise ValueError(f"the numbers of {name} are missing")
        view = torch.as_strided(numbers, stored.size, stored.stride, stored.offset)
        # A copy of its own, so that a view does not keep numbers of others in memory.
        whole = view.is_contiguous() and view.numel() == numbers.numel()
        tensors[name] = view if whole else view.clone(memory_format=torch.contiguous_format)
    return tensors


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
