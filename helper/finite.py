"""Numbers that are not finite: nan and inf."""

import math

import torch


def first_not_finite(values, name=""):
    """Returns the name of the first tensor or float with a value that is not finite, such as
    `model.fc.bias`, or None. Waits for the device.

    values: tensors, numbers, and dicts, lists and tuples of these, such as a state dict.
    """
    if isinstance(values, torch.Tensor):
        finite = not values.is_floating_point() or bool(values.isfinite().all())
        return None if finite else name
    if isinstance(values, float):
        return None if math.isfinite(values) else name
    if isinstance(values, (list, tuple)):
        values = dict(enumerate(values))
    for key, value in values.items() if isinstance(values, dict) else ():
        found = first_not_finite(value, f"{name}.{key}" if name else str(key))
        if found is not None:
            return found
    return None
