"""Features of a classifier, recorded by hooks."""

from torch import nn

from helper.errors import UserError


class LastFeatures:
    """Context manager that records the features (N, F): the input of a classifier's last layer.

    The last layer is the linear layer or convolution that runs last, wherever it is defined;
    usually the linear layer `fc`. If it is applied to every position of a map or to every token,
    the features are averaged over them. `.value` belongs to the latest forward pass and keeps its
    graph.
    """

    def __init__(self, network):
        """Raises UserError if `network` has neither a linear layer nor a convolution."""
        self._layers = [
            module for module in network.modules() if isinstance(module, (nn.Linear, nn.Conv2d))
        ]
        if not self._layers:
            raise UserError(
                "the teacher has no linear layer and no convolution to take features from: choose "
                "another teacher"
            )
        self._handles, self._last_call = [], None

    def __enter__(self):
        self._handles = [layer.register_forward_pre_hook(self._record) for layer in self._layers]
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()
        self._handles, self._last_call = [], None  # frees the graph of the last pass

    def _record(self, layer, inputs):
        self._last_call = layer, inputs[0]

    @property
    def value(self):
        """Features of the latest forward pass, (N, F), or None before the first one."""
        if self._last_call is None:
            return None
        layer, x = self._last_call
        if isinstance(layer, nn.Conv2d):
            return x.mean((2, 3))
        return x.reshape(len(x), -1, x.shape[-1]).mean(1)
