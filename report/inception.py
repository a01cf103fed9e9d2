"""The published measures in the Inception network's feature space, computed by the package
torch-fidelity.
"""

import importlib.util

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

from helper import checkpoints
from helper.errors import UserError

FEATURES = 2048  # of its last pooling


class _Squares(Dataset):
    """The images of a set as uint8 tensors (3, S, S): as they are if of that size, else cut square
    and resized.
    """

    def __init__(self, images, size):
        self.images, self.size = images, size

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images.load(index)
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        square = image.crop((left, top, left + side, top + side))
        return pil_to_tensor(square.resize((self.size, self.size), Image.BICUBIC))


def check_weights(path):
    """Raises UserError if torch-fidelity is not installed, or `path` does not hold the network's
    weights and no more.

    The package would run code that a file holds. What is loaded here holds none.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        raise UserError(
            "--inception is computed by torch-fidelity, which is not installed: pip install "
            "torch-fidelity"
        )
    content = checkpoints.load(path)
    last = content.get("fc.weight") if isinstance(content, dict) else None
    if not isinstance(last, torch.Tensor) or last.shape != (1008, FEATURES):
        raise UserError(
            f"--inception {path} does not hold torch-fidelity's Inception network (fc.weight of "
            "1008 × "
            f"{FEATURES}): fetch weights-inception-2015-12-05-6726825d.pth from its releases, "
            "v0.2.0"
        )


def inception_measures(images, real_images, weights, batch_size, on_gpu):
    """Returns a dict of the Inception network's Fréchet distance `inception_fid` of two sets of
    images and of the Inception score of the first, `inception_score` and its deviation over ten
    parts, `inception_score_std`.

    Each set has a length and gives PIL images by `load(index)`; both are seen at the size of the
    first's images. `weights` is a file that has passed `check_weights`. All features are kept: 8 KB
    an image.
    """
    import torch_fidelity

    size = min(images.load(0).size)
    found = torch_fidelity.calculate_metrics(
        input1=_Squares(images, size),
        input2=_Squares(real_images, size),
        isc=True,
        fid=True,
        cuda=on_gpu,
        batch_size=batch_size,
        feature_extractor_weights_path=str(weights),
        cache=False,
        verbose=False,
    )
    return {
        "inception_fid": found["frechet_inception_distance"],
        "inception_score": found["inception_score_mean"],
        "inception_score_std": found["inception_score_std"],
    }
