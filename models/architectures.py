"""Classifiers by name: `create_model` builds a network and loads its weights."""

import functools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from helper import checkpoints
from helper.errors import UserError, note
from helper.image_size import is_small
from models import checkpoint_layouts as layouts
from models import libraries
from models.libraries import nearest_names
from models.mobilenetv2 import MobileNetV2
from models.own_network import HOW, own_network
from models.resnet18 import ResNet
from models.resnet20 import CifarResNet
from models.shufflenet import ShuffleNetV1, ShuffleNetV2
from models.vgg import VGG
from models.wrn import WideResNet


class Architecture(NamedTuple):
    """A network of this package, `network(num_classes=…)`, or a short name for torchvision's."""

    note: str  # distinguishes it from similar names in error messages
    network: Callable | None = None
    torchvision: str | None = None
    namesake: str | None = None  # the network for small images that others call by this name


ARCHITECTURES = {
    **{
        f"resnet{depth}": Architecture("three stages, 32x32", partial(CifarResNet, depth))
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{
        f"resnet{depth}x4": Architecture(
            "three stages, 32x32", partial(CifarResNet, depth, widths=(32, 64, 128, 256))
        )
        for depth in (8, 32)
    },
    "resnet8x4_double": Architecture(
        "three stages, 32x32", partial(CifarResNet, 8, widths=(64, 128, 256, 512))
    ),
    # RepDistiller's names (wrn_40_2), then Fast-Datafree's (wrn40_2).
    **{
        f"wrn{separator}{depth}_{factor}": Architecture(
            "32x32", partial(WideResNet, depth, factor=factor)
        )
        for separator in ("_", "")
        for depth in (16, 40)
        for factor in (1, 2)
    },
    **{
        f"vgg{depth}": Architecture("BatchNorm, 32x32", partial(VGG, depth))
        for depth in (8, 11, 13, 16, 19)
    },
    **{
        f"resnet{depth}": Architecture(
            "32x32, ReLU after the stem", partial(ResNet, depth, stem_relu=True)
        )
        for depth in (18, 34, 50)
    },
    **{
        f"cifarresnet{depth}": Architecture(
            "32x32, no ReLU after the stem", partial(ResNet, depth, stem_relu=False)
        )
        for depth in (18, 34)
    },
    "MobileNetV2": Architecture("half width, 32x32", MobileNetV2),
    "ShuffleV1": Architecture("32x32", ShuffleNetV1),
    # Fast-Datafree's names of RepDistiller's ShuffleV2 and of a copy of torchvision's network.
    "shufflenetv2": Architecture("32x32", ShuffleNetV2),
    "mobilenetv2": Architecture(
        "torchvision's, of full width", torchvision="mobilenet_v2", namesake="MobileNetV2"
    ),
    **{
        name: Architecture("torchvision's, for ImageNet", None, library_name, namesake)
        for name, library_name, namesake in (
            ("ResNet18", "resnet18", "resnet18"),
            ("ResNet34", "resnet34", "resnet34"),
            ("ResNet50", "resnet50", "resnet50"),
            ("ShuffleV2", "shufflenet_v2_x1_0", "shufflenetv2"),
        )
    },
}

# RepDistiller's names, which mean its networks where images are small. ResNet18 and ResNet34 are
# torchvision's for them too, as in DM-KD's code; only a checkpoint can tell that mdistiller's are
# meant.
BY_IMAGE_SIZE = ("ResNet50", "ShuffleV2")


def model_names():
    """The names of this package, in order. `torchvision/NAME`, `timm/NAME` and `module:function`
    are accepted too.
    """
    return list(ARCHITECTURES)


def is_model(name):
    """Whether `name` is one of this package or of a library (imported only for its own names)."""
    library, _, library_name = name.partition("/")
    if library in libraries.LIBRARIES and library_name:
        return libraries.has_model(library, library_name)
    return name in ARCHITECTURES


def library_and_name(name):
    """Splits `timm/resnet18` into ('timm', 'resnet18') and turns `ResNet18` into ('torchvision',
    'resnet18'). The library of this package's own networks, and of the user's, is None.

    Raises UserError for an unknown name; names of a library or the user are not checked here.
    """
    library, _, library_name = name.partition("/")
    if library in libraries.LIBRARIES and library_name:
        return library, library_name
    if is_own(name):
        return None, None
    if name not in ARCHITECTURES:
        every = f": the names are {', '.join(model_names())}, torchvision/NAME, timm/NAME and {HOW}"
        raise UserError(f"unknown model '{name}'{nearest_names(name, model_names()) or every}")
    library_name = ARCHITECTURES[name].torchvision
    return ("torchvision" if library_name else None), library_name


def is_own(name):
    """Whether `name` is that of a function in the user's code, `module:function`."""
    return ":" in name and name.partition("/")[0] not in libraries.LIBRARIES


def network_name(name, image_size=None, content=None):
    """The name, without a second meaning, of the network that is meant by `name`.

    `ResNet50` is resnet50 if the tensors in the `content` of a checkpoint are that network's, and
    `ResNet50` if they are torchvision's. Otherwise the `image_size` (pixels) decides.
    """
    namesake = ARCHITECTURES[name].namesake if name in ARCHITECTURES else None
    if namesake and content is not None:
        for other in (namesake, name):
            if fits(other, content):
                return other
    by_size = name in BY_IMAGE_SIZE and image_size is not None and is_small(image_size)
    return namesake if by_size else name


def create_model(
    name, num_classes, checkpoint=None, pretrained=False, new_head=None, image_size=None
):
    """Builds a classifier: normalised images (N, 3, H, W) → logits (N, num_classes).

    The network is in fp32, on the CPU and in training mode.

    name: one of `model_names()`, `torchvision/NAME`, `timm/NAME`, or `module:function` for a
    function make_net(num_classes=…) → nn.Module.
    checkpoint: path of a `.pth` or `.safetensors` file in any published layout.
    pretrained: download the library's published ImageNet weights. For `ResNet18` and the other
    short names these are torchvision's first version (V1), the paper's teachers; otherwise the
    library's default.
    new_head: accept weights for another number of classes and initialise the last layer randomly;
    `new_head` is a function, called with a message about it. By default such weights are an error.
    image_size: in pixels, if it is known. `ResNet50` and `ShuffleV2` are RepDistiller's networks
    for images of up to 64 pixels, otherwise torchvision's; a note says so. In a checkpoint
    either is recognised, as is mdistiller's `ResNet18`; published weights are torchvision's.

    Raises UserError for an unknown name, for `pretrained` without published weights, and for a
    checkpoint that cannot be read or does not fit.
    """
    if checkpoint is not None and pretrained:
        raise UserError(f"{name}: give a checkpoint or ask for the published weights, not both")
    library_and_name(name)  # refuses unknown names
    content = None if checkpoint is None else checkpoints.load(checkpoint)
    if not pretrained:
        meant = network_name(name, image_size, content)
        if content is None and image_size is not None:
            _note_namesake(name, meant, image_size)
        name = meant
    library, library_name = library_and_name(name)

    # Build the network; timm loads its published weights at once
    published = None
    if library == "torchvision":
        published = _torchvision_weights(name, library_name)
        if pretrained:
            _check_published_classes(name, num_classes, len(published.meta["categories"]), new_head)
        net = libraries.torchvision_network(name, library_name, num_classes)
    elif library == "timm":
        published = libraries.timm_weights(name, library_name)
        if pretrained:
            if published is None:
                raise UserError(f"{name} has no published weights: give a checkpoint")
            _check_published_classes(name, num_classes, published.num_classes, new_head)
            if published.num_classes != num_classes:
                new_head(_new_head_line(name, published.num_classes, num_classes))
        net = libraries.timm_network(name, library_name, num_classes, pretrained)
    elif pretrained:
        raise UserError(f"{name} has no published weights to download: give a checkpoint")
    elif is_own(name):
        net = own_network(name, num_classes)
    else:
        net = ARCHITECTURES[name].network(num_classes=num_classes)

    # Load the weights
    if checkpoint is not None:
        _load_weights(net, name, num_classes, content, f"checkpoint {checkpoint}", new_head)
        checkpoints.check_finite(net.state_dict(), f"checkpoint {checkpoint}")
    elif pretrained and library == "torchvision":
        with libraries.downloading(name):
            content = published.get_state_dict(progress=True, check_hash=True)
        origin = f"torchvision's file {published.url}"
        _load_weights(net, name, num_classes, content, origin, new_head)
    return net.train()


def _note_namesake(name, meant, image_size):
    """Notes which of two networks is `meant`, if others call another one for small images so."""
    architecture = ARCHITECTURES.get(name)
    if architecture and architecture.namesake and is_small(image_size):
        torchvisions = f"torchvision/{architecture.torchvision}"
        other = torchvisions if meant == architecture.namesake else architecture.namesake
        note(
            f"{name} at {image_size} pixels means {torchvisions if meant == name else meant}; for "
            f"the other network of that name give {other}"
        )


def published_statistics(name):
    """(mean, std) of the images, in [0, 1], that the weights of `pretrained` were trained on.

    None if nothing is published. Raises UserError for an unknown name.
    """
    library, library_name = library_and_name(name)
    if library == "timm":
        published = libraries.timm_weights(name, library_name)
        return published and (published.mean, published.std)
    if library == "torchvision":
        images = _torchvision_weights(name, library_name).transforms()
        return tuple(images.mean), tuple(images.std)
    return None


def published_image_size(name):
    """Size in pixels of the images that an architecture is made for; None if it is the user's."""
    library, library_name = library_and_name(name)
    if is_own(name):
        return None
    if library == "timm":
        return libraries.timm_image_size(library_name)
    if library == "torchvision":
        return _torchvision_weights(name, library_name).transforms().crop_size[0]
    return 32


def downloaded_name(path):
    """The library model whose published weights are stored under such a path, or None.

    torchvision's files have known names (`mobilenet_v2-7ebf99e0.pth`), and so have the folders of
    timm's weights in the cache of the Hugging Face hub (`models--timm--resnet18.a1_in1k/`).
    """
    *folders, file = path.replace("\\", "/").split("/")
    for folder in folders:
        name = folder.replace("models--timm--", "timm/", 1)
        if name != folder and is_model(name):
            return name
    return libraries.torchvision_file_name(file)


def _torchvision_weights(name, library_name):
    version = "IMAGENET1K_V1" if name in ARCHITECTURES else "DEFAULT"
    return libraries.torchvision_weights(name, library_name, version)


def _check_published_classes(name, num_classes, published_classes, new_head):
    if published_classes != num_classes and new_head is None:
        raise UserError(
            f"the published weights of {name} have {published_classes} classes, {num_classes} are "
            "needed: give a checkpoint, or train without published weights"
        )


def _new_head_line(name, classes, num_classes):
    return (
        f"{name}: the weights have {classes} classes, {num_classes} are needed: the last layer is "
        "initialised randomly"
    )


def _load_weights(net, name, num_classes, content, origin, new_head):
    """Copies the weights in the content of a checkpoint into `net`. `origin` names it in messages.

    Raises UserError if keys or shapes differ.
    """
    expected = layouts.tensor_shapes(net.state_dict())
    entries = layouts.entries(content)
    state = _choose_state(entries, expected, origin, note)
    shapes = layouts.tensor_shapes(state)
    classes = layouts.class_count(expected, shapes)
    if classes not in (None, num_classes) and new_head is not None:
        new_head(_new_head_line(name, classes, num_classes))
        state = {key: value for key, value in state.items() if shapes.get(key) == expected.get(key)}
    elif classes is not None and shapes != expected:
        raise UserError(
            f"{origin} is a {name} for {classes} classes, {num_classes} are needed: choose the "
            "dataset it was trained on, or another checkpoint"
        )
    elif shapes != expected:
        difference = layouts.describe_difference(expected, shapes)
        raise UserError(
            f"{origin} is not a {name}: {difference}{_describe_weights(entries, shapes, expected)}"
        )
    layouts.copy_weights(net, state, origin)


def _choose_state(entries, expected, origin, note):
    """The state dict, of the `entries` of a checkpoint, for a network with the shapes `expected`.

    note: called with a message about others that are not used.
    """
    if found := layouts.find_weights(entries, expected):
        return layouts.choose_weights(found, expected, origin, note)
    state = layouts.likeliest(entries, origin)
    return layouts.rename_in_order(state, expected) if layouts.LITE_KEY in state else state


def classes_of(name, content, origin):
    """Number of classes of the network `name` whose weights are in the content of a checkpoint.

    Raises UserError if its tensors do not tell. `origin` names the file in messages.
    """
    expected = _shapes_of(network_name(name, content=content))
    entries = layouts.entries(content)
    state = _choose_state(entries, expected, origin, note=lambda text: None)
    shapes = layouts.tensor_shapes(state)
    classes = layouts.class_count(expected, shapes)
    if classes is not None:
        return classes
    difference = layouts.describe_difference(expected, shapes)
    if expected.keys() == shapes.keys():
        raise UserError(f"{origin}: the number of classes is unknown ({difference}): give it")
    what = _describe_weights(entries, shapes, expected)
    raise UserError(f"{origin} is not a {name}: {difference}{what}")


def _describe_weights(entries, shapes, expected):
    """What the weights in a checkpoint are, and how to use them: the end of an error message.

    expected: {key: shape} of the network that they are not.
    """
    if any("_packed_params" in key or key.endswith(".zero_point") for _, s in entries for key in s):
        return "; its weights are quantised: give the checkpoint before that"
    if any(".lora_A." in key for _, state in entries for key in state):
        return "; it holds LoRA adapters: merge them (merge_and_unload) and save the whole network"
    if any(
        key.endswith("weight_g") or ".parametrizations." in key
        for _, state in entries
        for key in state
    ):
        return (
            "; its weights are parametrised: call remove_weight_norm or remove_parametrizations of "
            "torch.nn.utils before they are saved"
        )
    if any(key.endswith("weight_orig") for _, state in entries for key in state):
        return "; its weights are pruned: call torch.nn.utils.prune.remove before they are saved"
    for key, description in layouts.FOREIGN_KEYS.items():
        if key in shapes:
            return f"\nIt is {description}"
    if not any(key.endswith(".weight") for key in shapes):
        return "; it holds no weights of a network: give the checkpoint of the weights"
    networks = _recognise(entries)
    if not networks:
        if (prefix := layouts.prefix_without_head(entries, expected)) is not None:
            where = f" under {prefix}" if prefix else ""
            return (
                f"; the last layer is missing{where}, as after pre-training: give a checkpoint of "
                "the whole classifier"
            )
        return "; give the architecture that it was saved from"
    name, classes = networks[layouts.preferred(networks)[0]]
    description = ARCHITECTURES[name].note
    return (
        f"\nIt is a {name} ({description}) for {classes} classes: use the name {name}"
        + _namesakes_in_torchvision(name)
    )


def _namesakes_in_torchvision(name):
    """What else has the tensors of the network `name`: the end of a message, or ""."""
    if not name.startswith("cifarresnet"):
        return ""
    return (
        f". If it is torchvision's {name.removeprefix('cifar')} with a 3x3 stem, which is followed "
        "by a ReLU, give your own code as module:function (docs/extend.md)"
    )


def fits(name, content):
    """Whether the tensors in the content of a checkpoint are those of the network `name`, for any
    number of classes.
    """
    entries, expected = layouts.entries(content), _shapes_of(name)
    states = [weights.state for weights in layouts.find_weights(entries, expected)]
    if not states and any(layouts.LITE_KEY in state for _, state in entries):
        states = [layouts.rename_in_order(layouts.likeliest(entries, name), expected)]
    return any(
        layouts.class_count(expected, layouts.tensor_shapes(state)) is not None for state in states
    )


def architecture_with(content, origin, flag="--model_t"):
    """The architecture whose tensors are in the content of a checkpoint, by keys and shapes, or
    None.

    Raises UserError, which asks for the `flag`, if there are several. `origin` names the file in
    messages.
    """
    entries = layouts.entries(content)
    state = layouts.likeliest(entries, origin)
    if layouts.LITE_KEY in state:
        for name in layouts.LITE_NAMES:
            expected = _shapes_of(name)
            shapes = layouts.tensor_shapes(layouts.rename_in_order(state, expected))
            if layouts.class_count(expected, shapes) is not None:
                return name
        return None
    networks = _recognise(entries)
    places = layouts.preferred(networks)
    names = {networks[place][0] for place in places}
    if len(names) > 1:
        found = " and ".join(f"a {networks[place][0]} under {place}" for place in places)
        hint = layouts.student_file(places, origin)
        raise UserError(f"{origin} holds {found}: {hint}name the one that you mean ({flag})")
    name = names.pop() if names else None
    if name and (other := _namesakes_in_torchvision(name)):
        note(f"{origin} is read as {name} ({ARCHITECTURES[name].note}){other}")
    return name


def _recognise(entries):
    """{place: (name, number of classes)} of the networks of this package in a checkpoint."""
    networks = {}
    for name in ARCHITECTURES:
        expected = _shapes_of(name)
        for weights in layouts.find_weights(entries, expected):
            classes = layouts.class_count(expected, layouts.tensor_shapes(weights.state))
            if classes is not None:
                networks.setdefault(weights.place, (name, classes))
    return networks


@functools.cache
def _shapes_of(name):
    """{key: shape} of the network `name` for some number of classes."""
    if is_own(name):  # its code may need values
        with torch.random.fork_rng(devices=[]):
            return layouts.tensor_shapes(create_model(name, 2).state_dict())
    with torch.device("meta"):  # no memory, no random numbers
        return layouts.tensor_shapes(create_model(name, 2).state_dict())
