"""VGG with BatchNorm (Simonyan and Zisserman, arXiv 1409.1556) for small images.

One linear layer follows the pooling; the paper's two hidden linear layers are left out.
"""

import torch.nn.functional as F
from torch import nn

from models.resnet20 import initialise

WIDTHS = (64, 128, 256, 512, 512)  # channels of the five blocks
CONVOLUTIONS = {  # depth → convolutions per block
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def make_block(c_in, c_out, convolutions):
    """3x3 convolutions with bias, each with BatchNorm and ReLU; `VGG.forward` applies the last
    ReLU.
    """
    layers = []
    for i in range(convolutions):
        layers += [
            nn.Conv2d(c_in if i == 0 else c_out, c_out, 3, padding=1),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers[:-1])


class VGG(nn.Module):
    """Images (N, 3, H, W), H = W = 32 or 64 → logits (N, num_classes)."""

    def __init__(self, depth, num_classes):
        """depth: a key of CONVOLUTIONS."""
        super().__init__()
        for i, convolutions in enumerate(CONVOLUTIONS[depth]):
            self.add_module(
                f"block{i}", make_block(WIDTHS[i - 1] if i else 3, WIDTHS[i], convolutions)
            )
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        initialise(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x):
        pool_fourth = x.shape[2] == 64  # then the last block's input is 4x4, as for 32x32 images
        x = F.max_pool2d(F.relu(self.block0(x)), 2)  # (N, 64, H/2, W/2)
        x = F.max_pool2d(F.relu(self.block1(x)), 2)  # (N, 128, H/4, W/4)
        x = F.max_pool2d(F.relu(self.block2(x)), 2)  # (N, 256, H/8, W/8)
        x = F.relu(self.block3(x))  # (N, 512, H/8, W/8)
        if pool_fourth:
            x = F.max_pool2d(x, 2)
        x = F.relu(self.block4(x))
        return self.classifier(x.mean((2, 3)))
