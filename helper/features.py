"""What the scripts look at inside of a network, by hooks that are taken off again."""

from torch import nn

from helper.errors import UserError


class LastFeatures:
    """The features (N, F) that the last layer of a classifier is given; a context manager, within
    which they are seen.

    The last layer is the linear one or the convolution that runs last, wherever it stands in the
    module: the input of the linear layer `fc`, as a rule. Where it is applied at every position of
    a map, or to every token, the features are the mean over them. `.value` is of the last forward
    pass, with its graph.
    """

    def __init__(self, network):
        """Raises UserError if `network` has neither a linear layer nor a convolution."""
        self._layers = [
            module for module in network.modules() if isinstance(module, (nn.Linear, nn.Conv2d))
        ]
        if not self._layers:
            raise UserError(
                "the teacher has no linear layer and no convolution, whose input are called its "
                "features: "
                "choose another teacher"
            )
        self._handles, self._seen = [], None

    def __enter__(self):
        self._handles = [layer.register_forward_pre_hook(self._see) for layer in self._layers]
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()
        self._handles, self._seen = [], None  # what was seen holds the graph of the last pass

    def _see(self, layer, inputs):
        self._seen = layer, inputs[0]

    @property
    def value(self):
        """The features of the last pass, a tensor (N, F); None before any."""
        if self._seen is None:
            return None
        layer, x = self._seen
        return (
            x.mean((2, 3))
            if isinstance(layer, nn.Conv2d)
            else x.reshape(len(x), -1, x.shape[-1]).mean(1)
        )
