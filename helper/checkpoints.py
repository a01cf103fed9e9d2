"""Saving checkpoints, and loading them without executing code that they may contain."""

import argparse
import copy
import errno
import io
import json
import pathlib
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes

from helper.errors import REMEDIES, UserError
from helper.files import sha256, whole_file
from helper.finite import first_not_finite

# Published checkpoints contain flags (a Namespace), numpy scalars and paths. Nothing else is
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
    # Under its name in numpy 2, and in numpy 1, which most published files were written with
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
    # A path is only a text. Python 3.13 has the classes in another module.
    *(
        (getattr(pathlib, f"Pure{system}Path"), f"{module}.{pure}{system}Path")
        for module in ("pathlib", "pathlib._local")
        for pure in ("", "Pure")
        for system in ("Posix", "Windows")
    ),
]

PRETRAINED_MODELS = Path("pretrained_models")  # published weights of generators

# Keys of the weights in training checkpoints: of two entries that fit, the first one is meant
WEIGHTS_KEYS = ("model", "state_dict", "state", "net", "model_state_dict", "network", "weights")
# Parts that DataParallel, torch.compile, FSDP and activation checkpointing add to parameter names,
# of a network or of its parts
WRAPPERS = re.compile(
    r"(?<![^.])(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+"
)
_TORCH_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # begins torch.save's format before 1.6
ENDINGS = (".pth", ".pt", ".safetensors", ".bin", ".ckpt", ".tar")  # of checkpoint files
NETWORKS = ("model", "ema")  # entries of a run's checkpoint that other programs read
FACTS = "dm-kd"  # metadata of our safetensors files: the other entries, as JSON

# The shipped teachers were saved again when checkpoints became contiguous. Their tensors are those
# of the earlier files, after which runs, sweeps and folders name them: {hash of a file: earlier}.
EARLIER_SHA256 = {
    "651ae7a8c884cf432121bbf75581177a52190556e4666f1d12a3201b7e666cfc":  # resnet20
    "0a2d3f6738a03e800224879e1fb31709b1f4981f7644c6d13ff50c8099aa998f",
    "d62bfc70742598b3b36cf80d48d4263f748d96a21eef7a493e77c84d4b6b0f99":  # resnet8
    "ef1b866c99aee292265d2ff4de65f5bb25b325d02521c458e0c3e4dddb978834",
}


def weights_sha256(path):
    """The hash that names the weights in runs and manifests: the file's SHA-256, or that of an
    earlier file of the same weights.
    """
    digest = sha256(path)
    return EARLIER_SHA256.get(digest, digest)


def save(path, state):
    """Saves tensors, numbers, lists and dicts with torch.save; the file is written atomically.

    Tensors of NETWORKS are saved contiguous, for programs that take no others (safetensors). Those
    of an optimizer keep the layout of the parameters: in another one a step may round differently.
    """
    state = {key: _contiguous(value) if key in NETWORKS else value for key, value in state.items()}
    # Given a file, torch's zip writer hides the error of a full disk.
    content = io.BytesIO()
    torch.save(state, content)
    with whole_file(path, sync=True) as file:
        file.write(content.getbuffer())


def _contiguous(state):
    """A state dict with contiguous tensors; other attributes of the dict are kept."""
    state = copy.copy(state)
    for name, tensor in state.items():
        state[name] = tensor.contiguous()
    return state


def save_safetensors(path, state):
    """Writes the weights under `model` to a safetensors file, atomically.

    state: a run's checkpoint. Its name, mean and std are kept as metadata, which `load` reads.
    """
    facts = {key: state[key] for key in ("model_name", "mean", "std") if key in state}
    # Copies: the format has no tensors that share memory
    tensors = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in state["model"].items()
    }
    content = safetensors_bytes(tensors, {"format": "pt", FACTS: json.dumps(facts)})
    with whole_file(path, sync=True) as file:
        file.write(content)


def _load_safetensors(path):
    """The state dict in a safetensors file; of our files {"model": state dict, other entries}."""
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        facts = (file.metadata() or {}).get(FACTS)
    return state if facts is None else {"model": state, **json.loads(facts)}


def load(path, mmap=False):
    """Loads a torch checkpoint, or the state dict in a safetensors file, on the CPU.

    The format is recognised by the first bytes, whatever the file is called.
    mmap: leave the tensors of a torch checkpoint on the disk until they are used (not supported by
    the format before torch 1.6). Raises UserError if the file is missing, truncated, of another
    format, or contains objects that are not safe to unpickle.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(_describe_folder(path))
    if not path.is_file():
        raise UserError(f"checkpoint not found: {path}")
    try:
        if is_safetensors(path):
            return _call(_load_safetensors, path)
        if not mmap and zipfile.is_zipfile(path):
            _check_crc(path)
        with torch.serialization.safe_globals(SAFE_CLASSES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error says it all
            if path.suffix == ".safetensors":  # torch goes by the name
                with open(path, "rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            mmap = mmap and zipfile.is_zipfile(path)
            return _call(torch.load, path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # damaged files raise many types in zip, pickle and safetensors
        # "Invalid argument": an offset in a damaged file
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            reason = REMEDIES.get(error.errno) or error.strerror or error
            raise UserError(f"checkpoint {path} cannot be read: {reason}") from None
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise UserError(f"too little memory to read checkpoint {path}") from None
        raise UserError(f"checkpoint {path} {_describe_unreadable(path, error)}") from None


def is_safetensors(path):
    """Whether a file begins like safetensors: the length of a JSON header (8 bytes), and `{`."""
    with open(path, "rb") as file:
        head = file.read(9)
    return head[4:] == b"\0\0\0\0{"  # no header is as long as 4 GB


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


def _describe_folder(folder):
    """What to do about a folder that was given for a checkpoint."""
    text = f"{folder} is a folder: give the checkpoint file in it"
    if any(folder.glob("*.index.json")):
        return f"{folder} holds a checkpoint in several files: save the weights in one file"
    files = sorted(file for file in folder.glob("*") if file.suffix in ENDINGS)
    files = files or sorted(file for file in folder.glob("*/*") if file.suffix in ENDINGS)
    if not files:
        return f"{text}, but it has none that ends in {', '.join(ENDINGS)}"
    rest = f" or {len(files) - 3} others" if len(files) > 3 else ""
    return f"{text}: {', '.join(map(str, files[:3]))}{rest}"


def _describe_unreadable(path, error):
    """Why torch cannot read the file `path`, and what to do: the end of a sentence."""
    with open(path, "rb") as file:
        head = file.read(300)
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it"
    head = head.lstrip()
    if not path.stat().st_size:
        return "is truncated: it has 0 bytes: download or save it again"
    if head.startswith(b"version https://git-lfs"):
        return "is only the pointer to a file in Git LFS: run `git lfs pull`, or download the file"
    if head.startswith(b"\x1f\x8b"):
        return "is compressed with gzip: run gunzip first"
    if head.startswith(b"\x89HDF"):
        return "is an HDF5 file, such as Keras writes: save the weights of a torch network"
    if path.name.endswith(".index.json"):
        return "is the index of a checkpoint in several files: save the weights in one file"
    if head.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page and not a checkpoint: look at it in a browser, then download the file"
    if zipfile.is_zipfile(path):
        names = zipfile.ZipFile(path).namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            return (
                "is a TorchScript archive, which contains code: refused; save the weights with "
                "torch.save(torch.jit.load(file).state_dict(), new_file)"
            )
        if not any(name.endswith("/data.pkl") for name in names):
            return f"is a zip archive of other files ({', '.join(names[:3])}, …): unpack it"
    if isinstance(error, pickle.UnpicklingError):
        classes = _unsafe_classes(path, error)
        named = f" ({', '.join(classes[:3])}{', …' * (len(classes) > 3)})" if classes else ""
        if any(name.startswith("torch.nn.modules") for name in classes):
            return (
                f"holds a whole network{named}, which could run code: refused; save its weights "
                "with torch.save(network.state_dict(), file)"
            )
        if head[:1] == pickle.PROTO and not head.startswith(_TORCH_PICKLE):
            return (
                f"was written by pickle{named}, which could run code: refused; where you trust it, "
                "load it with pickle and save the weights with torch.save"
            )
        if classes and all(name.startswith("numpy") for name in classes):
            return (
                f"holds numpy objects{named}, which are not read: save tensors instead "
                "(torch.from_numpy)"
            )
        if classes or zipfile.is_zipfile(path) or head[:1] == pickle.PROTO:
            return (
                f"holds objects other than weights{named}, which could run code: refused; save its "
                "state_dict alone"
            )
    if head.isascii() and b"".join(head.split()).decode("ascii").isprintable():
        return f"is truncated or not a checkpoint: it is text, {head[:40].decode('ascii')!r}"
    return f"is truncated or not a checkpoint ({type(error).__name__}): download it again"


def _unsafe_classes(path, error):
    """The names of the classes in a torch checkpoint that are refused; of an old file the first."""
    try:
        with torch.serialization.safe_globals(SAFE_CLASSES):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # the format before torch 1.6, or a damaged file
        return re.findall(r"GLOBAL (\S+)", str(error))


def state_dicts(content, name="", depth=3):
    """Yields (name, {key: tensor}) for `content` and each dict or list in it that holds tensors.

    name: the keys that lead to it, such as `model` or `ema.model`, and '' for `content` itself.
    """
    items = ()
    if isinstance(content, dict):
        items = [(str(key), value) for key, value in content.items()]
    elif isinstance(content, list | tuple):
        items = [(str(number), value) for number, value in enumerate(content)]
    tensors = {key: value for key, value in items if isinstance(value, torch.Tensor)}
    if tensors:
        yield name, tensors
    if depth:
        for key, value in items:
            yield from state_dicts(value, f"{name}.{key}".lstrip("."), depth - 1)


def preference(name):
    """Order in which the entries of a checkpoint are looked at: those of WEIGHTS_KEYS, then the
    whole, then others.
    """
    first = name.split(".")[0]
    if first in WEIGHTS_KEYS:
        return WEIGHTS_KEYS.index(first)
    return len(WEIGHTS_KEYS) + bool(name)


def likeliest(entries, origin):
    """The state dict that most probably holds the weights, of entries [(name, state dict)]: the one
    under one of WEIGHTS_KEYS, the whole, or else the largest.

    Raises UserError if there is none. `origin` names the file in the message.
    """
    if not entries:
        raise UserError(
            f"{origin} holds no state dict: expected tensors by name, or a dict under "
            f"{', '.join(repr(key) for key in WEIGHTS_KEYS)}"
        )
    return min(entries, key=lambda entry: (preference(entry[0]), -len(entry[1])))[1]


def check_finite(state, origin):
    """Raises UserError if a tensor of a state dict holds nan or inf; `origin` names its file."""
    if name := first_not_finite(state):
        raise UserError(
            f"{origin}: the weights are not all finite ({name} holds nan or inf): the training "
            "that wrote them diverged, or the file is damaged: give other weights"
        )


def state_dict_of(content, path):
    """The `likeliest` state dict in the content of the checkpoint `path`, without WRAPPERS.

    Raises UserError if there are no tensors.
    """
    state = likeliest(list(state_dicts(content)), f"checkpoint {path}")
    return {WRAPPERS.sub("", key): value for key, value in state.items()}
