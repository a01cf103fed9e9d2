"""ShuffleNet V1 (Zhang et al., arXiv 1707.01083) and V2 (Ma et al., arXiv 1807.11164) for 32x32
images: the stem is a 1x1 convolution of stride 1 without max-pooling.

The keys are those of RepDistiller (Tian et al., arXiv 1910.10699), which mdistiller and
Fast-Datafree use, too.
"""

import torch
import torch.nn.functional as F
from torch import nn

STEM = 24  # channels
V1_WIDTHS, V1_BLOCKS, V1_GROUPS = (240, 480, 960), (4, 8, 4), 3
V2_WIDTHS, V2_BLOCKS, V2_HEAD = (116, 232, 464), (4, 8, 4), 1024


def conv1x1(c_in, c_out, groups=1):
    """1x1 convolution, without a bias because a BatchNorm follows."""
    return nn.Conv2d(c_in, c_out, 1, groups=groups, bias=False)


def depthwise(channels, stride=1):
    """3x3 convolution of each channel by itself."""
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


def shuffle(x, groups):
    """Interleaves the `groups` parts of the channels: (a, b, c, d) → (a, c, b, d) for two parts."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


# V1


class GroupedBottleneck(nn.Module):
    """Grouped 1x1, depthwise 3x3 and grouped 1x1 convolutions beside a shortcut.

    stride 1: (N, C, H, W) → the same shape, the shortcut is added.
    stride 2: (N, c_in, H, W) → (N, c_out, H/2, W/2), of which the last c_in channels are the
    average-pooled input.
    """

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.stride = stride
        c_out -= c_in if stride == 2 else 0
        hidden = c_out // 4
        # The stem has too few channels for groups.
        self.groups = 1 if c_in == STEM else V1_GROUPS
        self.conv1 = conv1x1(c_in, hidden, self.groups)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = depthwise(hidden, stride)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = conv1x1(hidden, c_out, V1_GROUPS)
        self.bn3 = nn.BatchNorm2d(c_out)

    def forward(self, x):
        out = shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        # The paper has no ReLU after the depthwise convolution, the published code has one.
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return F.relu(torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1))
        return F.relu(out + x)


class ShuffleNetV1(nn.Module):
    """Images (N, 3, H, W), usually H = W = 32 → logits (N, num_classes)."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = conv1x1(3, STEM)
        self.bn1 = nn.BatchNorm2d(STEM)
        c_in = STEM
        for i, (width, blocks) in enumerate(zip(V1_WIDTHS, V1_BLOCKS), 1):
            rest = [GroupedBottleneck(width, width, stride=1) for _ in range(blocks - 1)]
            stage = nn.Sequential(GroupedBottleneck(c_in, width, stride=2), *rest)
            self.add_module(f"layer{i}", stage)
            c_in = width
        self.linear = nn.Linear(c_in, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))  # (N, 24, H, W)
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 960, H/8, W/8)
        return self.linear(x.mean((2, 3)))


# V2


class SplitBlock(nn.Module):
    """Convolves half of the channels and shuffles them with the other half; keeps the shape."""

    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = depthwise(half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x):
        kept, out = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        out = F.relu(self.bn3(self.conv3(out)))
        return shuffle(torch.cat([kept, out], dim=1), 2)


class DownBlock(nn.Module):
    """Two branches of stride 2, shuffled: (N, c_in, H, W) → (N, c_out, H/2, W/2)."""

    def __init__(self, c_in, c_out):
        super().__init__()
        half = c_out // 2
        # Left branch
        self.conv1 = depthwise(c_in, stride=2)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv2 = conv1x1(c_in, half)
        self.bn2 = nn.BatchNorm2d(half)
        # Right branch
        self.conv3 = conv1x1(c_in, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = depthwise(half, stride=2)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x):
        left = self.bn1(self.conv1(x))
        left = F.relu(self.bn2(self.conv2(left)))
        right = F.relu(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        right = F.relu(self.bn5(self.conv5(right)))
        return shuffle(torch.cat([left, right], dim=1), 2)


class ShuffleNetV2(nn.Module):
    """Images (N, 3, H, W), usually H = W = 32 → logits (N, num_classes). Width 1."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = conv1x1(3, STEM)
        self.bn1 = nn.BatchNorm2d(STEM)
        c_in = STEM
        for i, (width, blocks) in enumerate(zip(V2_WIDTHS, V2_BLOCKS), 1):
            rest = [SplitBlock(width) for _ in range(blocks - 1)]
            self.add_module(f"layer{i}", nn.Sequential(DownBlock(c_in, width), *rest))
            c_in = width
        self.conv2 = conv1x1(c_in, V2_HEAD)
        self.bn2 = nn.BatchNorm2d(V2_HEAD)
        self.linear = nn.Linear(V2_HEAD, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))  # (N, 24, H, W)
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 464, H/8, W/8)
        x = F.relu(self.bn2(self.conv2(x)))
        return self.linear(x.mean((2, 3)))
