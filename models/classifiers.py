"""Teachers and students: classifiers that normalise their own images."""

import contextlib
import os
from typing import NamedTuple

import torch
from torch import nn

from helper import checkpoints
from helper.cost import dry_pass
from helper.errors import UserError, note
from helper.options import statistics_fault
from models.architectures import (
    ARCHITECTURES,
    architecture_with,
    classes_of,
    create_model,
    downloaded_name,
    fits,
    is_model,
    is_own,
    model_names,
    network_name,
    published_image_size,
    published_statistics,
)
from models.libraries import LIBRARIES, nearest_names

# Of the pixels. Many trainings have used the mean of the images' own deviations instead.
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
FAST_DATAFREE_CIFAR10_STD = (0.2023, 0.1994, 0.2010)


class Normalised(nn.Module):
    """A classifier of images (N, 3, H, W) in [0, 1] → logits (N, num_classes).

    `.net` is the plain network, whose state dict is saved.
    """

    def __init__(self, net, mean, std):
        """`mean`, `std`: three numbers each, for images in [0, 1]."""
        super().__init__()
        self.net = net
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x):
        return self.net((x - self.mean) / self.std)


def load_teacher(path, num_classes=None, mean=None, std=None, name=None):
    """Loads a frozen teacher: Normalised, in eval mode, without gradients, channels_last.

    name: its architecture; by default `architecture_of(path)`.
    num_classes: by default that of the tensors in the file.
    mean, std: three numbers each; by default those in the file, where our runs save them, or those
    that torchvision or timm publishes with its ImageNet weights of 1000 classes.

    Raises UserError as `architecture_of` and `create_model` do, and if one of these is not given
    and the file does not tell.
    """
    name = name or architecture_of(path)
    if num_classes is None:
        num_classes = classes_of(name, checkpoints.load(path, mmap=True), f"checkpoint {path}")
    if mean is None or std is None:
        statistics = statistics_of(path, name, None, published=num_classes == 1000)
        if statistics is None:
            raise UserError(
                f"checkpoint {path} holds no mean and std of its images: give those that it was "
                "trained with, mean=(…) and std=(…), for images in [0, 1]"
            )
        mean = statistics.mean if mean is None else mean
        std = statistics.std if std is None else std
    net = create_model(name, num_classes, checkpoint=path)
    teacher = Normalised(net, mean, std).eval().requires_grad_(False)
    return teacher.to(memory_format=torch.channels_last)


def make_student(name, num_classes, mean, std, resumed=None, **options):
    """Builds a network to train: Normalised, channels_last.

    resumed: path of the checkpoint of a run to resume, if there may be one. A run keeps its
    network, whatever `name` has come to mean for its images.
    options: `image_size` and, unless the network is randomly initialised, `checkpoint`,
    `pretrained` and `new_head`; passed on to `create_model`.

    Raises UserError as `create_model`, and if the network has nothing to train.
    """
    if resumed is not None and network_name(name, options.get("image_size")) != name:
        with contextlib.suppress(UserError):  # no such file, or one that Run.open refuses
            if network_name(name, content=checkpoints.load(resumed, mmap=True)) == name:
                options["image_size"] = None
    net = create_model(name, num_classes, **options)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise UserError(f"{name} has no parameters that require gradients: nothing can be trained")
    return Normalised(net, mean, std).to(memory_format=torch.channels_last)


def check_classifier(network, name, flag, size, num_classes, batch_size=2):
    """Raises UserError unless `network` maps images of `size` pixels to logits (N, num_classes).

    Nothing is computed or changed (`dry_pass`). name: of the architecture; flag: that chooses it;
    batch_size: images per process and step, of a network in training.
    """
    try:
        output, _ = dry_pass(network, torch.empty(2, 3, size, size))
    except Exception as error:  # networks raise many types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        usual = published_image_size(name)
        other_size = f", or --image_size {usual}" if usual not in (None, size) else ""
        raise UserError(
            f"{name} cannot run on images of {size} pixels ({reason}): use another {flag}"
            f"{other_size}"
        ) from None
    if not isinstance(output, torch.Tensor) or output.shape != (2, num_classes):
        kind = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError(
            f"{name} returns {kind} for two images, not logits of {num_classes} classes, "
            f"(2, {num_classes}): use another {flag}"
        )
    if batch_size == 1:
        try:
            dry_pass(network, torch.empty(1, 3, size, size))
        except Exception:  # BatchNorm in training has one value per channel
            raise UserError(
                f"{name} has BatchNorm layers, which cannot train on batches of one image of "
                f"{size} pixels: use a --batch_size of at least two per process, and as many "
                "training images"
            ) from None


# Normalisation


@torch.no_grad()
def check_start(student, image_size, loss, standardized=False):
    """Raises UserError if the logits of a student that has not been trained are all equal, and the
    loss has no gradient then: `dist`, or any loss of standardised logits.
    """
    if loss != "dist" and not standardized:
        return
    device = next(student.parameters()).device
    images = torch.linspace(0, 1, 3 * image_size**2, device=device)
    training = student.training
    logits = student.eval()(images.view(1, 3, image_size, image_size))
    student.train(training)
    if (logits == logits[0, 0]).all():
        flag = "--standardize_logits" if standardized else "--distill dist"
        raise UserError(
            "the last layer of the student is initialised to zero, so its logits are all equal and "
            f"{flag} has no gradient: omit {flag}, or initialise the layer otherwise"
        )


class Statistics(NamedTuple):
    """Mean and standard deviation that images in [0, 1] are normalised with, three numbers each."""

    mean: tuple
    std: tuple
    origin: str  # where they come from, for the log and config.json

    @property
    def facts(self):
        """What a run writes into its checkpoints, for `statistics_of`."""
        return {"mean": list(self.mean), "std": list(self.std)}

    def __str__(self):
        mean = ", ".join(f"{value:g}" for value in self.mean)
        std = ", ".join(f"{value:g}" for value in self.std)
        return f"mean {mean}, std {std} ({self.origin})"


def image_statistics(mean, std, who, default, path=None, name=None):
    """The Statistics for the images of a network, which are the first available of:

    1. the flags `mean`, `std` (None if not given) of `who`: 't' (teacher) or 's' (student);
    2. those in its checkpoint `path`;
    3. those of the library that published the weights `name`, if `path` is given and the data set
       is like ImageNet;
    4. the data set's.

    default: (mean, std, whether the images are like ImageNet's) of the data set, from
    `dataset.real.default_statistics`.
    """
    default_mean, default_std, like_imagenet = default
    statistics = Statistics(default_mean, default_std, "the data set's")
    if path is not None and not (mean and std):
        statistics = statistics_of(path, name, statistics, published=like_imagenet)
    flags = {key: values for key, values in (("mean", mean), ("std", std)) if values}
    if path is not None and "std" not in flags and statistics.std == CIFAR10_STD:
        note(
            "images of cifar10 are normalised with the data set's std, "
            f"{', '.join(map(str, CIFAR10_STD))}; for a teacher of Fast-Datafree give --std_{who} "
            f"{','.join(map(str, FAST_DATAFREE_CIFAR10_STD))}, with which those were trained"
        )
    if not flags:
        return statistics
    return statistics._replace(**flags, origin=" and ".join(f"--{key}_{who}" for key in flags))


def statistics_of(path, name, default, published):
    """The Statistics in checkpoint `path`, where our runs save them.

    For other checkpoints: those of the library that published the weights `name`, if `published`,
    and else `default`.
    """
    content = checkpoints.load(path, mmap=True)
    if isinstance(content, dict):
        mean, std = content.get("mean"), content.get("std")
        # In a plain state dict these may be tensors of the network
        if all(isinstance(values, list) and len(values) == 3 for values in (mean, std)):
            for kind, values in (("mean", mean), ("std", std)):
                if fault := statistics_fault(values, kind):
                    raise UserError(
                        f"checkpoint {path}: its entry '{kind}', {values}, {fault}: correct it, or "
                        "give both flags --mean_… and --std_…"
                    )
            return Statistics(mean, std, "the checkpoint's own")
    return (published and library_statistics(network_name(name, content=content))) or default


def library_statistics(name):
    """The Statistics that a library publishes with its weights of `name`, or None."""
    statistics = published_statistics(name)
    if statistics is None:
        return None
    library = name.partition("/")[0] if "/" in name else "torchvision"
    return Statistics(*statistics, f"{library}'s for {name}")


# The architecture of a checkpoint


def architecture_of(path, flag="--model_t"):
    """The architecture of the checkpoint `path`, from the first of these that gives one:

    1. `model_name`, which our runs save in their checkpoints;
    2. the name of its folder; of two networks of that name the one that has its tensors;
    3. its tensors, if they are those of a network of this package;
    4. `arch`, which timm and others save, if the tensors are that network's;
    5. its file name, if it is a library's download.

    Raises UserError, which asks for the `flag`, if none does, or if it is a network of the user's
    code.
    """
    # Only names and shapes are read: mmap leaves the weights on the disk.
    exists = os.path.exists(path)
    content = checkpoints.load(path, mmap=True) if exists else None
    if isinstance(content, dict) and isinstance(content.get("model_name"), str):
        if is_own(name := content["model_name"]):
            raise UserError(
                f"checkpoint {path} is of the network {name}, and a file may not choose the code "
                f"that runs: name it with {flag} {name}"
            )
        return name
    folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
    name, unknown = _architecture_in_folder_name(folder), ""
    if exists and name in ARCHITECTURES and not fits(name, content):
        name = _namesake_with(name, content) or name
    if name is None and exists:
        name = architecture_with(content, f"checkpoint {path}", flag) or _architecture_entry(
            content
        )
        key = next(iter(checkpoints.state_dict_of(content, path)))
        unknown = f", and its tensors ({key}, …) are not those of a known one"
    # torchvision's own file of that network keeps torchvision's name.
    if name in (None, "mobilenetv2"):
        name = downloaded_name(os.path.abspath(path)) or name
    if name is None:
        missing = "" if exists else f"checkpoint not found: {path}\n"
        nearest = nearest_names(folder.split("_")[0], model_names())
        raise UserError(
            f"{missing}the folder '{folder}' of checkpoint {path} does not begin with the name of "
            f"an architecture{unknown}{nearest}: name it with {flag}"
        )
    return name


def _namesake_with(name, content):
    """The other network that is called `name`, if the tensors in a checkpoint are its, or None."""
    others = [other for other, value in ARCHITECTURES.items() if value.namesake == name]
    others.append(ARCHITECTURES[name].namesake)
    return next((other for other in others if other and fits(other, content)), None)


def _architecture_entry(content):
    """The architecture under `arch` in a checkpoint, if the tensors in it are its, or None."""
    arch = content.get("arch") if isinstance(content, dict) else None
    for name in (arch, f"timm/{arch}", f"torchvision/{arch}") if isinstance(arch, str) else ():
        with contextlib.suppress(UserError):  # timm is not installed, or refuses the name
            if is_model(name) and fits(name, content):
                return name
    return None


def _architecture_in_folder_name(folder):
    """The architecture that a folder's name begins with, or None.

    It is the longest sequence of `_`-separated segments that is a name: `wrn_40_2_vanilla` →
    wrn_40_2, `timm_resnet18` → timm/resnet18.
    """
    segments = folder.split("_")
    for count in range(len(segments), 0, -1):
        name = "_".join(segments[:count])
        if segments[0] in LIBRARIES:
            name = name.replace("_", "/", 1)
        if is_model(name):
            return name
    return None
