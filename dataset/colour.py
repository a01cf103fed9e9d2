"""Random colour changes of PIL images in RGB; drawing them is separate from applying them.

A change is a pair (name, argument) of torchvision.transforms.functional: ("adjust_hue", 0.1).
"""

JITTERED = ("brightness", "contrast", "saturation", "hue")


def draw_jitter(strengths, rng):
    """Draws the four changes of a colour jitter in random order, like torchvision's ColorJitter.

    strengths: for brightness, contrast and saturation s in [0, 1], with a factor uniform in
    [1 − s, 1 + s]; for hue h in [0, 0.5], with a shift uniform in [−h, h] of the circle.
    rng: a numpy Generator.
    """
    centres = (1, 1, 1, 0)
    changes = [
        (f"adjust_{name}", rng.uniform(centre - strength, centre + strength))
        for name, strength, centre in zip(JITTERED, strengths, centres, strict=True)
    ]
    return [changes[number] for number in rng.permutation(len(changes))]


def change(image, changes):
    """Applies the changes to a PIL image in RGB, one after the other."""
    from torchvision.transforms import functional

    for name, argument in changes:
        image = getattr(functional, name)(image, argument)
    return image
