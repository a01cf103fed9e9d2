"""What inversion looks at inside of a teacher, by hooks that are taken off again: BatchNorm
statistics.
"""

import contextlib

import torch
from torch import nn

from helper.errors import UserError

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


@contextlib.contextmanager
def evaluating(network):
    """Within it the network is in eval mode; afterwards it is in the mode that it was in before."""
    training = network.training
    network.eval()
    try:
        yield network
    finally:
        network.train(training)


class BatchNormMatch:
    """How far the statistics of a batch are from those that the BatchNorm layers of a network keep.

    A context manager: within it every forward pass of `network`, in eval mode, leaves the mean and
    the biased variance of what each layer was given, and `distances()` compares them (arXiv
    1912.08795, eq. 4, with unsquared norms): ‖running mean − mean‖₂ + ‖running variance −
    variance‖₂, a layer.

    With `momentum` m > 0 the batch's statistics are smoothed with those of earlier rounds (arXiv
    2112.06253): mean and variance above become (1 − m)·batch + m·average once there is an average.
    `remember()` takes the last pass into it.
    """

    def __init__(self, network, momentum=0.0):
        """Raises UserError if `network` has no BatchNorm layer that keeps statistics."""
        self.layers = [
            module
            for module in network.modules()
            if isinstance(module, _NORMS) and module.running_mean is not None
        ]
        if not self.layers:
            raise UserError(
                "the teacher has no BatchNorm layer, whose statistics this method matches: choose "
                "a "
                "teacher with BatchNorm, or a method without that term"
            )
        self.momentum = momentum
        self.average = None  # [(mean, variance), …] a layer, of earlier rounds
        self._seen, self._handles = {}, []

    def __enter__(self):
        for number, layer in enumerate(self.layers):
            self._handles.append(
                layer.register_forward_pre_hook(
                    lambda _, inputs, number=number: self._see(number, inputs[0])
                )
            )
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()  # they hold the graph of the last pass

    def _see(self, number, x):
        x = x.float()  # under autocast, half precision would round the variance
        over = [axis for axis in range(x.dim()) if axis != 1]
        self._seen[number] = x.mean(over), x.var(over, unbiased=False)

    def distances(self):
        """Returns the distance of each layer, 0-d tensors with a graph, in the order of the layers.

        Raises RuntimeError if no pass has been made since the hooks were put on.
        """
        if len(self._seen) != len(self.layers):
            raise RuntimeError(
                f"{len(self._seen)} of {len(self.layers)} BatchNorm layers have seen a batch"
            )
        return [self._distance(number, layer) for number, layer in enumerate(self.layers)]

    def _distance(self, number, layer):
        seen = self._seen[number]
        if self.average is not None:
            seen = [
                torch.lerp(now, before, self.momentum)
                for now, before in zip(seen, self.average[number], strict=True)
            ]
        mean, variance = seen
        return (layer.running_mean - mean).norm() + (layer.running_var - variance).norm()

    def loss(self, first_weight=1.0):
        """Returns the sum of the distances, the first layer's times `first_weight`."""
        first, *rest = self.distances()
        return first_weight * first + sum(rest)

    def remember(self):
        """Takes the statistics of the last pass into the average, which begins with them."""
        last = [
            tuple(value.detach() for value in self._seen[number])
            for number in range(len(self.layers))
        ]
        if self.average is not None:
            last = [
                tuple(
                    torch.lerp(now, before, self.momentum)
                    for now, before in zip(new, old, strict=True)
                )
                for new, old in zip(last, self.average, strict=True)
            ]
        self.average = last

    def state_dict(self):
        """The average, for a checkpoint."""
        return {"average": self.average}

    def load_state_dict(self, state):
        device = self.layers[0].running_mean.device
        average = state["average"]
        self.average = average and [tuple(value.to(device) for value in pair) for pair in average]
