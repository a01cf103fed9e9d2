"""Wide residual networks (Zagoruyko and Komodakis, arXiv 1605.07146) for 32x32 images."""

import torch.nn.functional as F
from torch import nn

from models.resnet20 import conv3x3, initialise


class PreActivationBlock(nn.Module):
    """Twice BatchNorm, ReLU and convolution, and a shortcut: (N, c_in, H, W) → (N, c_out, H/stride,
    W/stride).
    """

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = conv3x3(c_in, c_out, stride)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = conv3x3(c_out, c_out)
        # As in the published code, only a change of width needs a projection, not a stride: the
        # first stage of k = 1 has none.
        self.convShortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if c_in != c_out else None

    def forward(self, x):
        activated = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        # The input of the projection is activated, that of the identity is not.
        return out + (x if self.convShortcut is None else self.convShortcut(activated))


class Stage(nn.Module):
    """A sequence of blocks; the first changes the width and the resolution."""

    def __init__(self, c_in, c_out, blocks, stride):
        super().__init__()
        first = PreActivationBlock(c_in, c_out, stride)
        # The attribute is part of the published keys: block1.layer.0.conv1.weight.
        self.layer = nn.Sequential(
            first, *[PreActivationBlock(c_out, c_out, 1) for _ in range(blocks - 1)]
        )

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    """Images (N, 3, H, W), usually H = W = 32 → logits (N, num_classes)."""

    def __init__(self, depth, num_classes, factor):
        """depth: 6n + 4 for n blocks per stage. factor (k): multiplies the widths 16, 32, 64."""
        super().__init__()
        blocks = (depth - 4) // 6
        widths = (16, 16 * factor, 32 * factor, 64 * factor)
        self.conv1 = conv3x3(3, widths[0])
        self.block1 = Stage(widths[0], widths[1], blocks, stride=1)
        self.block2 = Stage(widths[1], widths[2], blocks, stride=2)
        self.block3 = Stage(widths[2], widths[3], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        initialise(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))  # (N, 64k, H/4, W/4)
        x = F.relu(self.bn1(x))
        return self.fc(x.mean((2, 3)))
