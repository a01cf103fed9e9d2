"""Classifiers as the scripts use them: with the normalisation of their own images, and a teacher from its file."""

import os

import torch
from torch import nn

from helper import checkpoints
from helper.errors import UserError
from models import create_model, model_names, nearest_names


def architecture_of(path):
    """Returns the architecture of the checkpoint `path` by the name of its folder: `wrn_40_2_vanilla/` → wrn_40_2.

    That is the folder's first `_` segment, or the first three for `wrn_*`; put generally, so that our own folders of
    `wrn40_2` count too, the longest run of first segments that is a name. If there is none (a student's folder, say)
    it is the name that our runs write into the checkpoint. Raises UserError if there is neither.
    """
    folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
    segments = folder.split("_")
    for count in range(len(segments), 0, -1):
        name = "_".join(segments[:count])
        if name in model_names():
            return name
    content = checkpoints.load(path) if os.path.isfile(path) else None
    if isinstance(content, dict) and isinstance(content.get("model_name"), str):
        return content["model_name"]
    raise UserError(f"the folder '{folder}' of checkpoint {path} does not begin with the name of an architecture"
                    f"{nearest_names(segments[0])}: name it with --model_t")


class Normalised(nn.Module):
    """A classifier that normalises its images itself: (N, 3, H, W) floats in [0, 1] → logits (N, num_classes).

    `.net` is the plain network, the one whose state dict is saved.
    """

    def __init__(self, net, mean, std):
        """`mean` and `std`: three numbers each, of images in [0, 1]."""
        super().__init__()
        self.net = net
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    def forward(self, x):
        return self.net((x - self.mean) / self.std)


def load_teacher(path, num_classes, mean, std, name=None):
    """Returns the frozen teacher of checkpoint `path`: Normalised, in eval mode, without gradients, channels_last.

    Its architecture is `name`, or else that of `architecture_of(path)`. Raises UserError as that and `create_model` do.
    """
    net = create_model(name or architecture_of(path), num_classes, checkpoint=path)
    return Normalised(net, mean, std).eval().requires_grad_(False).to(memory_format=torch.channels_last)


def make_student(name, num_classes, mean, std, pretrained=False):
    """Returns a network to train: Normalised, channels_last; from random initialisation unless `pretrained`."""
    net = create_model(name, num_classes, pretrained=pretrained)
    return Normalised(net, mean, std).to(memory_format=torch.channels_last)
