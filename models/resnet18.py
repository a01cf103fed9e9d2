"""ResNet-18, -34 and -50 (He et al., arXiv 1512.03385) for 32x32 images: the stem is a 3x3
convolution of stride 1 without max-pooling.

There are two published versions. That of RepDistiller, mdistiller and Fast-Datafree has a ReLU
after the stem's BatchNorm, DM-KD's `cifarresnet` has none, so the same weights give different
logits. Their state dicts differ in the names of the shortcut and the last layer.
"""

import torch.nn.functional as F
from torch import nn

from models.resnet20 import BasicBlock, conv3x3, initialise, make_stage

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # depth → blocks per stage
STEM = 64  # channels
WIDTHS = (64, 128, 256, 512)  # channels of the 3x3 convolutions of the four stages
EXPANSION = 4  # output channels of a Bottleneck per channel of its 3x3 convolution


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: (N, c_in, H, W) → (N, c_out, H/stride,
    W/stride).
    """

    def __init__(self, c_in, c_out, stride=1, projection="shortcut"):
        """projection: as of BasicBlock."""
        super().__init__()
        width = c_out // EXPANSION
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.projection = projection
        layers = [nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)]
        self.add_module(projection, nn.Sequential(*layers if stride != 1 or c_in != c_out else []))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + getattr(self, self.projection)(x))


class ResNet(nn.Module):
    """Images (N, 3, H, W), usually H = W = 32 → logits (N, num_classes)."""

    def __init__(self, depth, num_classes, stem_relu):
        """depth: 18, 34 or 50. stem_relu: Fast-Datafree's version (keys `shortcut`, `linear`) or
        DM-KD's (keys `downsample`, `fc`).
        """
        super().__init__()
        self.stem_relu = stem_relu
        self.head_name = "linear" if stem_relu else "fc"
        projection = "shortcut" if stem_relu else "downsample"
        block, expansion = (Bottleneck, EXPANSION) if depth == 50 else (BasicBlock, 1)
        self.conv1 = conv3x3(3, STEM)
        self.bn1 = nn.BatchNorm2d(STEM)
        c_in = STEM
        for i, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS[depth])):
            c_out, stride = width * expansion, 1 if i == 0 else 2
            stage = make_stage(c_in, c_out, blocks, stride, projection, block)
            self.add_module(f"layer{i + 1}", stage)
            c_in = c_out
        self.add_module(self.head_name, nn.Linear(c_in, num_classes))
        initialise(self)

    def forward(self, x):
        x = self.bn1(self.conv1(x))  # (N, 64, H, W)
        if self.stem_relu:
            x = F.relu(x)
        # (N, 512 or 2048, H/8, W/8)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return getattr(self, self.head_name)(x.mean((2, 3)))
