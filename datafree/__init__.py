"""Distillation without any images to begin with: the methods that make their own, one file a
method.

`terms` has the loss terms that several share, `hooks` what they look at inside of the teacher.
Stands on helper/.
"""


class Stopped(Exception):
    """A round was given up because the run is to stop: nothing of it is kept."""
