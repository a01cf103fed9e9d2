"""MobileNetV2 (Sandler et al., arXiv 1801.04381) of half width for 32x32 images, as RepDistiller
(Tian et al., arXiv 1910.10699) and mdistiller have it.

It differs from torchvision's network: the second stage keeps the resolution, the activations are
ReLU instead of ReLU6, and the first block has an expansion, of factor 1.
"""

from torch import nn

from models.resnet20 import conv3x3, initialise

WIDTH = 0.5
STAGES = (  # expansion, channels at full width, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST = 1280  # channels before the classifier, at any width up to 1


def with_norm(conv):
    """A convolution with the BatchNorm and ReLU that follow it."""
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and linear projection: (N, c_in, H, W) → (N, c_out,
    H/stride, W/stride), with a shortcut if the shape stays.
    """

    def __init__(self, c_in, c_out, stride, expansion):
        super().__init__()
        hidden = c_in * expansion
        self.has_shortcut = stride == 1 and c_in == c_out
        self.conv = nn.Sequential(
            *with_norm(nn.Conv2d(c_in, hidden, 1, bias=False)),
            *with_norm(nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, x):
        out = self.conv(x)
        return x + out if self.has_shortcut else out


class MobileNetV2(nn.Module):
    """Images (N, 3, H, W), usually H = W = 32 → logits (N, num_classes)."""

    def __init__(self, num_classes):
        super().__init__()
        c_in = int(32 * WIDTH)
        self.conv1 = nn.Sequential(*with_norm(conv3x3(3, c_in, stride=2)))
        self.blocks = nn.Sequential()
        for expansion, channels, blocks, stride in STAGES:
            c_out, stage = int(channels * WIDTH), nn.Sequential()
            for i in range(blocks):
                stage.append(InvertedResidual(c_in, c_out, stride if i == 0 else 1, expansion))
                c_in = c_out
            self.blocks.append(stage)
        self.conv2 = nn.Sequential(*with_norm(nn.Conv2d(c_in, LAST, 1, bias=False)))
        self.classifier = nn.Sequential(nn.Linear(LAST, num_classes))
        initialise(self)
        nn.init.normal_(self.classifier[0].weight, std=0.01)
        nn.init.zeros_(self.classifier[0].bias)

    def forward(self, x):
        x = self.blocks(self.conv1(x))  # (N, 160, H/16, W/16)
        return self.classifier(self.conv2(x).mean((2, 3)))
