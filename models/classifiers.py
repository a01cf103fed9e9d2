"""Classifiers as the scripts use them: with the normalisation of their own images, and a teacher
from its file.
"""

import os
from typing import NamedTuple

import torch
from torch import nn

from helper import checkpoints
from helper.errors import UserError
from models.architectures import (
    LIBRARIES,
    architecture_with,
    create_model,
    downloaded_name,
    is_model,
    nearest_names,
    published_statistics,
)


def architecture_of(path):
    """Returns the architecture of the checkpoint `path`, from the first of these that says it:

    the name that our runs write into their checkpoints; the name of its folder; its tensors, if
    they are those of one of this package's networks; the name that a library gives to the file of
    its published weights. Raises UserError if none does.
    """
    # Names and shapes are looked at here, so that the weights stay on the disk.
    content = checkpoints.load(path, mmap=True) if os.path.isfile(path) else None
    if isinstance(content, dict) and isinstance(content.get("model_name"), str):
        return content["model_name"]
    folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
    found, unknown = _name_in(folder), ""
    if found is None and content is not None:
        state = checkpoints.state_dict_of(content, path)
        found, unknown = (
            architecture_with(state),
            f", and its tensors ({next(iter(state))}, …) are of none known here",
        )
    found = found or downloaded_name(os.path.abspath(path))
    if found is None:
        raise UserError(
            f"the folder '{folder}' of checkpoint {path} does not begin with the name of an "
            "architecture"
            f"{unknown}{nearest_names(folder.split('_')[0])}: name it with --model_t"
        )
    return found


def _name_in(folder):
    """Returns the architecture that a folder's name begins with, or None: `wrn_40_2_vanilla` →
    wrn_40_2.

    That is the first `_` segment, or the first three for `wrn_*`; put generally, so that `wrn40_2`
    and our own folders (`timm_resnet18` for timm/resnet18) count too, the longest run of first
    segments that is a name.
    """
    segments = folder.split("_")
    for count in range(len(segments), 0, -1):
        name = "_".join(segments[:count])
        if segments[0] in LIBRARIES:
            name = name.replace("_", "/", 1)
        if is_model(name):
            return name
    return None


class Statistics(NamedTuple):
    """What images in [0, 1] are normalised with, three numbers each, and who says so."""

    mean: tuple
    std: tuple
    origin: str

    @property
    def facts(self):
        """What a run writes into its checkpoints, for `statistics_of`."""
        return {"mean": list(self.mean), "std": list(self.std)}

    def __str__(self):
        mean, std = (
            ", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std)
        )
        return f"mean {mean}, std {std} ({self.origin})"


def statistics_of(path, name, default, published):
    """Returns the Statistics of the network `name` in checkpoint `path`: what the checkpoint itself
    holds, as those of our runs do; else, if `published`, what a library says of its weights of that
    name; else `default`.
    """
    content = checkpoints.load(path, mmap=True)
    facts = [content.get(key) for key in ("mean", "std")] if isinstance(content, dict) else []
    # Only lists of numbers: in a plain state dict these may be tensors of a network.
    if facts and all(isinstance(values, list) and len(values) == 3 for values in facts):
        return Statistics(*facts, "the checkpoint's own")
    return library_statistics(name) or default if published else default


def chosen_statistics(options, who, default, path=None, name=None):
    """Returns the Statistics that the teacher ('t') or the student ('s') sees its images with.

    Those of the flags --mean_t, … or else, of a checkpoint `path` that holds the network `name`,
    the file's own or those of the network's library; or else the data set's. `default` is the data
    set's: mean, std, and whether its images are such that a library's statistics fit them
    (`dataset.real.default_statistics`).
    """
    mean, std, like_imagenet = default
    found = Statistics(mean, std, "the data set's")
    if path is not None:
        found = statistics_of(path, name, found, published=like_imagenet)
    given = {what: getattr(options, f"{what}_{who}") for what in ("mean", "std")}
    given = {what: values for what, values in given.items() if values}
    return (
        found._replace(**given, origin=" and ".join(f"--{what}_{who}" for what in given))
        if given
        else found
    )


def library_statistics(name):
    """Returns the Statistics that a library gives with its published weights of `name`, or None."""
    found = published_statistics(name)
    library = name.partition("/")[0] if "/" in name else "torchvision"
    return found and Statistics(*found, f"{library}'s for {name}")


class Normalised(nn.Module):
    """A classifier that normalises its images itself: (N, 3, H, W) floats in [0, 1] → logits (N,
    num_classes).

    `.net` is the plain network, the one whose state dict is saved.
    """

    def __init__(self, net, mean, std):
        """`mean` and `std`: three numbers each, of images in [0, 1]."""
        super().__init__()
        self.net = net
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(
                name, torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1), persistent=False
            )

    def forward(self, x):
        return self.net((x - self.mean) / self.std)


def load_teacher(path, num_classes, mean, std, name=None):
    """Returns the frozen teacher of checkpoint `path`: Normalised, in eval mode, without gradients,
    channels_last.

    Its architecture is `name`, or else that of `architecture_of(path)`. Raises UserError as that
    and `create_model` do.
    """
    net = create_model(name or architecture_of(path), num_classes, checkpoint=path)
    return (
        Normalised(net, mean, std)
        .eval()
        .requires_grad_(False)
        .to(memory_format=torch.channels_last)
    )


def make_student(name, num_classes, mean, std, **weights):
    """Returns a network to train: Normalised, channels_last; from random initialisation, or from
    the `weights` that `create_model` is asked for by its arguments.
    """
    net = create_model(name, num_classes, **weights)
    return Normalised(net, mean, std).to(memory_format=torch.channels_last)
