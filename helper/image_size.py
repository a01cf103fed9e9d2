"""The two published recipes: CIFAR's for small images, ImageNet's for large ones."""

SMALL = 64  # pixels; images up to this size are small


def is_small(size):
    """Whether images of `size` pixels are augmented, stored and synthesised like CIFAR's."""
    return size <= SMALL
