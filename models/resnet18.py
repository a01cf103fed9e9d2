"""ResNet-18 and -34 (He et al., arXiv 1512.03385) for 32x32 images: the stem is a 3x3 convolution
of stride 1 without max-pooling.

There are two published versions. Fast-Datafree's has a ReLU after the stem's BatchNorm, DM-KD's
`cifarresnet` has none, so the same weights give different logits. Their state dicts differ in the
names of the shortcut and the last layer.
"""

import torch.nn.functional as F
from torch import nn

from models.resnet20 import conv3x3, initialise, make_stage

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # depth → blocks per stage
WIDTHS = (64, 64, 128, 256, 512)  # channels of the stem and of the four stages


class ResNet(nn.Module):
    """Images (N, 3, H, W), usually H = W = 32 → logits (N, num_classes)."""

    def __init__(self, depth, num_classes, stem_relu):
        """depth: 18 or 34. stem_relu: Fast-Datafree's version (keys `shortcut`, `linear`) or
        DM-KD's (keys `downsample`, `fc`).
        """
        super().__init__()
        self.stem_relu = stem_relu
        self.head_name = "linear" if stem_relu else "fc"
        projection = "shortcut" if stem_relu else "downsample"
        self.conv1 = conv3x3(3, WIDTHS[0])
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        for i, blocks in enumerate(BLOCKS[depth]):
            stage = make_stage(
                WIDTHS[i], WIDTHS[i + 1], blocks, stride=1 if i == 0 else 2, projection=projection
            )
            self.add_module(f"layer{i + 1}", stage)
        self.add_module(self.head_name, nn.Linear(WIDTHS[-1], num_classes))
        initialise(self)

    def forward(self, x):
        x = self.bn1(self.conv1(x))  # (N, 64, H, W)
        if self.stem_relu:
            x = F.relu(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (N, 512, H/8, W/8)
        return getattr(self, self.head_name)(x.mean((2, 3)))
