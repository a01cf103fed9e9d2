"""ResNets with three stages for 32x32 images (He et al., arXiv 1512.03385, section 4.2).

The x4 variants (Tian et al., arXiv 1910.10699) are wider. The keys are those of that paper's code.
"""

import torch.nn.functional as F
from torch import nn


def initialise(net):
    """Initialises all convolutions of `net` with He's normal distribution (fan-out), biases 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def conv3x3(c_in, c_out, stride=1):
    """3x3 convolution with padding 1, without a bias because a BatchNorm follows."""
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, c_in, H, W) → (N, c_out, H/stride, W/stride)."""

    def __init__(self, c_in, c_out, stride=1, projection="downsample"):
        """projection: attribute name, and so checkpoint key, of the shortcut's convolution and
        BatchNorm.
        """
        super().__init__()
        self.conv1 = conv3x3(c_in, c_out, stride)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = conv3x3(c_out, c_out)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.projection = projection
        # An empty Sequential is the identity and adds no keys.
        layers = [nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)]
        self.add_module(projection, nn.Sequential(*layers if stride != 1 or c_in != c_out else []))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + getattr(self, self.projection)(x))


def make_stage(c_in, c_out, blocks, stride, projection="downsample", block=BasicBlock):
    """A sequence of blocks; the first changes the width and the resolution."""
    rest = [block(c_out, c_out, projection=projection) for _ in range(blocks - 1)]
    return nn.Sequential(block(c_in, c_out, stride, projection), *rest)


class CifarResNet(nn.Module):
    """Images (N, 3, H, W), usually H = W = 32 → logits (N, num_classes)."""

    def __init__(self, depth, num_classes, widths=(16, 16, 32, 64)):
        """depth: 6n + 2 for n blocks per stage. widths: channels of the stem and the three
        stages.
        """
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = conv3x3(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = make_stage(widths[0], widths[1], blocks, stride=1)
        self.layer2 = make_stage(widths[1], widths[2], blocks, stride=2)
        self.layer3 = make_stage(widths[2], widths[3], blocks, stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        initialise(self)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))  # (N, widths[0], H, W)
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, widths[3], H/4, W/4)
        return self.fc(x.mean((2, 3)))
