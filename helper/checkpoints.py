"""Checkpoints: written whole, read without running any code that they hold."""

import argparse
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from helper.errors import UserError
from helper.files import whole_file

# Published checkpoints hold their flags (a Namespace) and numpy scalars; nothing else may be
# unpickled.
_NUMPY_DTYPES = [
    type(np.dtype(name))
    for name in ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
]
_scalar = np._core.multiarray.scalar
SAFE_CLASSES = [
    argparse.Namespace,
    np.dtype,
    *_NUMPY_DTYPES,
    # numpy 2's name of it, and that of the numpy which most published files were written with.
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
]

# Where training code puts the weights in its checkpoints, and the wrappers' prefixes of their
# names.
WEIGHTS_KEYS = ("model", "state_dict", "state", "net")
PREFIXES = ("module.", "_orig_mod.")


def save(path, state):
    """Writes `state` (tensors, numbers, lists, dicts) with torch.save; the file appears whole or
    not at all.
    """
    with whole_file(path) as file:
        torch.save(state, file)


def load(path, mmap=False):
    """Returns the content of a `.safetensors` file (a state dict) or of a torch checkpoint, on the
    CPU.

    mmap: leaves a torch checkpoint's tensors on the disk until they are used (those of old,
    unzipped ones are read). Raises UserError if the file is missing, truncated, of another format,
    or asks for code to be run.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint not found: {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(SAFE_CLASSES):
            mmap = mmap and zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError:
        if _is_pickle(path):
            raise UserError(
                f"checkpoint {path} holds objects other than weights, which could run code: "
                "refused; "
                "save its state_dict alone"
            ) from None
        raise UserError(
            f"checkpoint {path} is truncated or not a torch checkpoint: fetch it again"
        ) from None
    except Exception as error:  # zip, pickle and safetensors raise many kinds for a damaged file
        raise UserError(
            f"checkpoint {path} is truncated or not a checkpoint ({type(error).__name__}): "
            "fetch it again"
        ) from None


def _is_pickle(path):
    """Whether a file that could not be unpickled is a torch checkpoint at all: a whole archive, or
    an old pickle.
    """
    with open(path, "rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == pickle.PROTO


def state_dict_of(content, path):
    """Returns the state dict inside a checkpoint's content: itself, or under one of WEIGHTS_KEYS.

    `module.` and `_orig_mod.` prefixes are taken off. Raises UserError if there are no tensors.
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
    for prefix in PREFIXES * 2:  # either may be around the other
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors
