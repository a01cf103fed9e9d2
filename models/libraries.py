"""Classifiers of torchvision and timm, and their published ImageNet weights.

In all functions `name` is the full name, for messages (`timm/resnet18`), and `library_name` is the
library's own (`resnet18`).
"""

import contextlib
import difflib
import errno

from helper.errors import UserError

LIBRARIES = ("torchvision", "timm")

# These networks return auxiliary outputs in training. timm's versions return the logits alone.
AUXILIARY_OUTPUTS = ("googlenet", "inception_v3")


def nearest_names(name, names, prefix=""):
    """Suggestion for an unknown name: ` (nearest: …)`, or an empty string if none is similar.

    Upper and lower case are not distinguished.
    """
    matches = difflib.get_close_matches(
        name.lower(), {other.lower() for other in names}, n=1, cutoff=0.5
    )
    nearest = [prefix + other for other in names if other.lower() in matches]
    return f" (nearest: {', '.join(nearest)})" if nearest else ""


def has_model(library, library_name):
    """Whether `library` has a classifier of this name."""
    if library == "torchvision":
        return library_name in _torchvision_names()
    return _import_timm(f"timm/{library_name}").is_model(library_name)


# torchvision


def _torchvision_names():
    from torchvision import models

    return models.list_models(module=models)


def torchvision_weights(name, library_name, version):
    """The published weights `version` ('IMAGENET1K_V1' or 'DEFAULT'), not downloaded yet.

    Raises UserError for an unknown name.
    """
    from torchvision import models

    names = _torchvision_names()
    if library_name not in names:
        nearest = nearest_names(library_name, names, "torchvision/")
        raise UserError(f"unknown model '{name}'{nearest}")
    return models.get_model_weights(library_name)[version]


def torchvision_network(name, library_name, num_classes):
    """A randomly initialised network. Raises UserError if it has auxiliary outputs."""
    from torchvision import models

    if library_name in AUXILIARY_OUTPUTS:
        raise UserError(
            f"{name} returns several outputs in training: use timm's, such as timm/inception_v3"
        )
    return models.get_model(library_name, weights=None, num_classes=num_classes)


def torchvision_file_name(file):
    """The model whose published weights torchvision stores as `file` (`mobilenet_v2-7ebf99e0.pth`),
    as `torchvision/NAME`, or None.
    """
    from torchvision import models

    for name in _torchvision_names():
        if any(weights.url.endswith(f"/{file}") for weights in models.get_model_weights(name)):
            return f"torchvision/{name}"
    return None


# timm


def _import_timm(name):
    try:
        import timm
    except ImportError:
        raise UserError(
            f"{name} is a network of timm, which is not installed: pip install 'timm>=1'"
        ) from None
    return timm


def timm_weights(name, library_name):
    """timm's description of the published weights, or None. `library_name` may end in a `.tag`.

    Raises UserError for an unknown name or tag.
    """
    timm = _import_timm(name)
    if not timm.is_model(library_name):
        nearest = nearest_names(library_name, timm.list_models(), "timm/")
        raise UserError(f"unknown model '{name}'{nearest}")
    try:
        weights = timm.get_pretrained_cfg(library_name, allow_unregistered=True)
    except RuntimeError:
        raise UserError(f"unknown model '{name}': timm has no weights of that tag") from None
    return weights if weights is not None and weights.has_weights else None


def timm_image_size(library_name):
    """Size in pixels of the images of a network of timm, whose weights may be unpublished."""
    import timm

    published = timm.get_pretrained_cfg(library_name, allow_unregistered=True)
    return published.input_size[-1] if published is not None else 224


def timm_network(name, library_name, num_classes, pretrained):
    """A network with timm's published weights, or a randomly initialised one.

    Where the weights have another number of classes, timm initialises the last layer randomly.
    """
    timm = _import_timm(name)
    with downloading(name):
        return timm.create_model(library_name, pretrained=pretrained, num_classes=num_classes)


@contextlib.contextmanager
def downloading(name):
    """Turns a failed download of the weights of `name` into a UserError."""
    try:
        yield
    except OSError as error:  # the base class of urllib's and huggingface_hub's errors
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the published weights of {name} cannot be downloaded ({error}): download the file on "
            "a machine with a connection and give it as the checkpoint"
        ) from None
