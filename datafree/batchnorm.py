"""The statistics in a teacher's BatchNorm layers, and those of a batch of images."""

import contextlib
from functools import partial

import torch
from torch import nn

from helper.errors import UserError

NORM_LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


@contextlib.contextmanager
def evaluating(network):
    """Context in which the network is in eval mode; its previous mode is restored."""
    was_training = network.training
    network.eval()
    try:
        yield network
    finally:
        network.train(was_training)


class _ChannelStatistics(torch.autograd.Function):
    """Mean and biased variance of each channel.

    The backward pass is one multiply-add and saves only x and the mean; autograd's takes several
    passes over the activations (benchmarks/inversion_step.py).
    """

    @staticmethod
    def forward(ctx, x):
        values = x.float()  # in half precision the variance would be inexact
        axes = [axis for axis in range(x.dim()) if axis != 1]
        if x.device.type == "cpu":  # where torch.var_mean is slow
            mean = values.mean(axes, keepdim=True)
            variance = (values - mean).square().mean(axes, keepdim=True)
        else:
            variance, mean = torch.var_mean(values, axes, correction=0, keepdim=True)
        ctx.save_for_backward(x, mean)
        return mean.flatten().clone(), variance.flatten()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, mean_gradient, variance_gradient):
        """d mean / dx = 1/n and d variance / dx = 2 (x - mean) / n, of n values per channel."""
        x, mean = ctx.saved_tensors
        count = x.numel() // mean.numel()
        slope = 2 * variance_gradient.view_as(mean) / count
        offset = mean_gradient.view_as(mean) / count - slope * mean
        return torch.addcmul(offset, x.float(), slope).to(x.dtype)


def channel_statistics(x):
    """(mean, biased variance) of each channel of x, (N, C, …): two float32 tensors (C,), which can
    be differentiated once.
    """
    return _ChannelStatistics.apply(x)


class BatchNormMatch:
    """Distance between the statistics of a batch and the running ones of a network's BatchNorm.

    A context manager. Within it every forward pass of `network`, in eval mode, records the mean and
    the biased variance of each layer's input, and `distances()` compares them (arXiv 1912.08795,
    eq. 4, with unsquared norms): ‖running mean − mean‖₂ + ‖running variance − variance‖₂ per layer.

    With `momentum` m > 0 the batch's statistics are smoothed with those of earlier rounds (arXiv
    2112.06253): (1 − m)·batch + m·average. `remember()` updates the average from the last pass.
    """

    def __init__(self, network, momentum=0.0):
        """Raises UserError if `network` has no BatchNorm layer with running statistics."""
        self.layers = [
            module
            for module in network.modules()
            if isinstance(module, NORM_LAYERS) and module.running_mean is not None
        ]
        if not self.layers:
            raise UserError(
                "the teacher has no BatchNorm layer, whose statistics this method matches: use a "
                "teacher with BatchNorm, or another method"
            )
        self.momentum = momentum
        self.average = None  # [(mean, variance), …] per layer, of earlier rounds
        self._batch, self._handles = {}, []

    def __enter__(self):
        for number, layer in enumerate(self.layers):
            hook = partial(self._record, number)
            self._handles.append(layer.register_forward_pre_hook(hook))
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._batch.clear()  # it holds the graph of the last pass

    def _record(self, number, layer, inputs):
        self._batch[number] = channel_statistics(inputs[0])

    def distances(self):
        """The distance of each layer, in order, as 0-d tensors with a graph.

        Raises RuntimeError if there has been no forward pass since the context was entered.
        """
        if len(self._batch) != len(self.layers):
            raise RuntimeError(
                f"{len(self._batch)} of {len(self.layers)} BatchNorm layers have had an input"
            )
        return [
            (layer.running_mean - mean).norm() + (layer.running_var - variance).norm()
            for layer, (mean, variance) in zip(self.layers, self._smoothed(), strict=True)
        ]

    def loss(self, first_weight=1.0):
        """The sum of the distances, the first layer's multiplied by `first_weight`."""
        first, *rest = self.distances()
        return first_weight * first + sum(rest)

    def remember(self):
        """Updates the average with the statistics of the last pass, which start it."""
        self.average = [(mean.detach(), var.detach()) for mean, var in self._smoothed()]

    def _smoothed(self):
        """[(mean, variance), …] of the last pass, smoothed with the average if there is one."""
        batch = [self._batch[number] for number in range(len(self.layers))]
        if self.average is None:
            return batch
        return [
            tuple(torch.lerp(new, old, self.momentum) for new, old in zip(*pairs, strict=True))
            for pairs in zip(batch, self.average, strict=True)
        ]

    def state_dict(self):
        return {"average": self.average}

    def load_state_dict(self, state):
        device = self.layers[0].running_mean.device
        average = state["average"]
        self.average = average and [tuple(value.to(device) for value in pair) for pair in average]
