"""Saving checkpoints, and loading them without executing code that they may contain."""

import argparse
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from helper.errors import UserError
from helper.files import whole_file

# Published checkpoints contain flags (a Namespace) and numpy scalars. Nothing else is unpickled.
_NUMPY_DTYPES = [
    type(np.dtype(name))
    for name in ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
]
_scalar = np._core.multiarray.scalar
SAFE_CLASSES = [
    argparse.Namespace,
    np.dtype,
    *_NUMPY_DTYPES,
    # Under its name in numpy 2, and in numpy 1, which most published files were written with
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
]

PRETRAINED_MODELS = Path("pretrained_models")  # published weights of generators

# Keys of the weights in training checkpoints, and prefixes that wrappers add to parameter names
WEIGHTS_KEYS = ("model", "state_dict", "state", "net")
PREFIXES = ("module.", "_orig_mod.")


def save(path, state):
    """Saves tensors, numbers, lists and dicts with torch.save; the file is written atomically."""
    # Given a file, torch's zip writer hides the error of a full disk.
    content = io.BytesIO()
    torch.save(state, content)
    with whole_file(path, sync=True) as file:
        file.write(content.getbuffer())


def load(path, mmap=False):
    """Loads a torch checkpoint, or the state dict in a `.safetensors` file, on the CPU.

    mmap: leave the tensors of a torch checkpoint on the disk until they are used (not supported by
    the format before torch 1.6). Raises UserError if the file is missing, truncated, of another
    format, or contains objects that are not safe to unpickle.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the checkpoint file in it")
    if not path.is_file():
        raise UserError(f"checkpoint not found: {path}")
    try:
        if not mmap and zipfile.is_zipfile(path):
            _check_crc(path)
        if path.suffix == ".safetensors":
            return _call(load_file, path)
        with torch.serialization.safe_globals(SAFE_CLASSES):
            mmap = mmap and zipfile.is_zipfile(path)
            return _call(torch.load, path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError:
        if _is_pickle(path):
            raise UserError(
                f"checkpoint {path} holds objects other than weights, which could run code: "
                "refused; save its state_dict alone"
            ) from None
        raise UserError(
            f"checkpoint {path} is truncated or not a torch checkpoint: download it again"
        ) from None
    except Exception as error:  # damaged files raise many types in zip, pickle and safetensors
        raise UserError(
            f"checkpoint {path} is truncated or not a checkpoint ({type(error).__name__}): "
            "download it again"
        ) from None


def _call(loader, path, **options):
    """loader(path, **options), even if the name of the file is not UTF-8 or the locale is ASCII."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with open(path, "rb") as file:
            return loader(f"/proc/self/fd/{file.fileno()}", **options)
    return loader(path, **options)


def _check_crc(path):
    """Raises zipfile.BadZipFile if a file of the archive differs from its CRC-32."""
    with zipfile.ZipFile(path) as archive:
        if name := archive.testzip():
            raise zipfile.BadZipFile(name)


def _is_pickle(path):
    """Whether a file is a complete zip archive or a pickle, as torch checkpoints are."""
    with open(path, "rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == pickle.PROTO


def check_finite(tensors, path):
    """Raises UserError if a tensor of the state dict {name: tensor} read from `path` holds nan or
    inf.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(
                f"{path}: the weights are not all finite ({name} holds nan or inf): the training "
                "that wrote them diverged, or the file is damaged: give other weights"
            )


def state_dict_of(content, path):
    """Finds the state dict in the content of a checkpoint: under one of WEIGHTS_KEYS, or the whole.

    The prefixes `module.` and `_orig_mod.` are removed. Raises UserError if there are no tensors.
    """
    for key in WEIGHTS_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = isinstance(content, dict) and {
        k: v for k, v in content.items() if isinstance(v, torch.Tensor)
    }
    if not tensors:
        raise UserError(
            f"checkpoint {path} holds no state dict: expected tensors by name, or a dict under "
            f"{', '.join(repr(key) for key in WEIGHTS_KEYS)}"
        )
    for prefix in PREFIXES * 2:  # in either order
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors
