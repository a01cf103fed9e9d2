"""FID and Inception score, computed by the package torch-fidelity."""

import importlib.util

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

from helper import checkpoints
from helper.errors import UserError

FEATURES = 2048  # of the last pooling layer


class SquareImages(Dataset):
    """The images of a set as uint8 tensors (3, S, S), centre-cropped to a square and resized."""

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
    """Raises UserError if torch-fidelity is missing or `path` is not its weights file.

    torch-fidelity would unpickle the file; `checkpoints.load` refuses files that hold code.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        raise UserError(
            "--inception requires torch-fidelity, which is not installed: pip install "
            "torch-fidelity"
        )
    content = checkpoints.load(path)
    last_layer = content.get("fc.weight") if isinstance(content, dict) else None
    wrong = not isinstance(last_layer, torch.Tensor) or last_layer.shape != (1008, FEATURES)
    if wrong or checkpoints.is_safetensors(path):  # torch-fidelity reads torch's format only
        raise UserError(
            f"--inception {path} does not hold torch-fidelity's Inception network (fc.weight of "
            f"1008 × {FEATURES}): download weights-inception-2015-12-05-6726825d.pth from its "
            "release v0.2.0"
        )


def inception_measures(images, real_images, weights, batch_size, on_gpu):
    """Computes FID and Inception score (with its standard deviation over ten splits) as a dict.

    images, real_images: have `len()` and `load(index)` → PIL image; both are resized to the size of
    the first generated image. weights: a file that has passed `check_weights`.
    torch-fidelity keeps all features in memory: 8 KB per image.
    """
    import torch_fidelity

    size = min(images.load(0).size)
    metrics = torch_fidelity.calculate_metrics(
        input1=SquareImages(images, size),
        input2=SquareImages(real_images, size),
        isc=True,
        fid=True,
        cuda=on_gpu,
        batch_size=batch_size,
        feature_extractor_weights_path=str(weights),
        cache=False,
        verbose=False,
    )
    return {
        "inception_fid": metrics["frechet_inception_distance"],
        "inception_score": metrics["inception_score_mean"],
        "inception_score_std": metrics["inception_score_std"],
    }
