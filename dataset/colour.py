"""Random changes of colour on PIL images in RGB; what is drawn is kept apart from what is done with
it.

A change is a pair (name, argument) of torchvision.transforms.functional, such as ("adjust_hue",
0.1).
"""

JITTERED = ("brightness", "contrast", "saturation", "hue")


def draw_jitter(strengths, rng):
    """Returns the four changes of a colour jitter, in random order, as torchvision's ColorJitter
    draws them.

    strengths: brightness, contrast and saturation s in [0, 1], whose factors are uniform in 1 − s …
    1 + s, and hue h in [0, 0.5], whose shift is uniform in −h … h of the circle. rng: a numpy
    Generator.
    """
    centres = (1, 1, 1, 0)
    changes = [
        (f"adjust_{name}", rng.uniform(centre - strength, centre + strength))
        for name, strength, centre in zip(JITTERED, strengths, centres, strict=True)
    ]
    return [changes[number] for number in rng.permutation(len(changes))]


def change(image, changes):
    """Returns the PIL image in RGB after `changes`, one after the other."""
    from torchvision.transforms import functional  # imports torch: not before the flags are checked

    for name, argument in changes:
        image = getattr(functional, name)(image, argument)
    return image
