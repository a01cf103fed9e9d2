"""Fidelity measures of image sets in the feature space of a classifier.

Fréchet distance: Heusel et al., arXiv 1706.08500, with the features of a classifier instead of
Inception's. Precision and recall: Kynkäänniemi et al., arXiv 1904.06991. Features are accumulated
batch by batch; the memory that they take does not grow with the number of images.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from helper.device import autocast, to_device
from helper.errors import UserError
from helper.evaluate import confusion_matrix
from helper.features import LastFeatures

NEIGHBOUR_IMAGES = 10_000  # most images of each set that precision and recall are measured on
LEAST_NEIGHBOUR_IMAGES = 1_000
LEAST_FRECHET_IMAGES = 2_048
_BLOCK = 1_000  # rows of a distance matrix at a time: 80 MB for 10,000 columns
# Two fp32 feature vectors are equal if their squared distance, relative to their squared norms, is
# below this rounding error.
_ROUNDING = 1e-12


class Moments:
    """Running count, mean (F,) and scatter matrix (F, F) of features, in float64.

    The scatter matrix is the sum of the outer products of the centred features.
    """

    def __init__(self, dimension, device="cpu"):
        self.count = 0
        self.mean = torch.zeros(dimension, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dimension, dimension, dtype=torch.float64, device=device)

    def update(self, features):
        """Adds a batch (N, F), N ≥ 1.

        Each batch is centred by its own mean, so that no large numbers are subtracted.
        """
        x = features.double()
        count, batch_mean = self.count + len(x), x.mean(0)
        shift = batch_mean - self.mean
        x = x - batch_mean
        self.scatter.addmm_(x.T, x).addr_(shift, shift, alpha=self.count * len(x) / count)
        self.mean += shift * (len(x) / count)
        self.count = count

    def merged(self, world):
        """The Moments of the features of all processes, the same on each of them."""
        total = Moments(len(self.mean), self.mean.device)
        sums = world.sum(
            torch.cat([self.mean * self.count, self.mean.new_tensor([self.count])]).cpu()
        )
        total.count = round(sums[-1].item())
        total.mean += (sums[:-1] / total.count).to(self.mean.device)
        shift = self.mean - total.mean
        scatter = self.scatter + self.count * torch.outer(shift, shift)
        total.scatter += world.sum(scatter.cpu()).to(shift.device)
        return total

    @property
    def covariance(self):
        """The unbiased covariance matrix (F, F); needs at least two features."""
        return self.scatter / (self.count - 1)


def least_frechet_images(dimension):
    """Images of each set that a Fréchet distance in `dimension` features needs.

    With fewer images than features the covariance is singular, and with few images the distance is
    far too large.
    """
    return max(LEAST_FRECHET_IMAGES, 2 * dimension)


def frechet_distance(first, second):
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) of two Moments, a float ≥ 0 (arXiv 1706.08500, eq. 6).

    tr (Σ₁ Σ₂)^½ is computed as tr (Σ₁^½ Σ₂ Σ₁^½)^½, whose matrix is symmetric and has no negative
    eigenvalues.
    """
    values, vectors = torch.linalg.eigh(first.covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = root @ second.covariance @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    traces = first.covariance.trace() + second.covariance.trace()
    distance = (first.mean - second.mean).square().sum() + traces - 2 * cross
    return max(distance.item(), 0.0)  # rounding can make it negative for equal sets


def sample_indices(count, size):
    """Pseudo-random sample of the indices 0…count−1: int64 (min(size, count),), ordered by hash.

    The hash of an index does not depend on `count` or `size`, so a smaller sample is a prefix of a
    larger one. It is the finalizer of SplitMix64 (Steele et al., 2014), which is a bijection.
    """
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(x ^ (x >> np.uint64(31)))[:size]


def precision_recall(generated, real, k):
    """(precision, recall) in [0, 1] of features (N, F) and (M, F) (arXiv 1904.06991, eqs. 1 and 2).

    Precision: the fraction of generated images that lie within the distance of some real image to
    its k-th nearest real neighbour; recall: the same with the sets exchanged. The paper uses N = M.
    Needs k < N and k < M.
    """
    return _fraction_inside(generated, real, k), _fraction_inside(real, generated, k)


def _fraction_inside(points, others, k):
    """Fraction of `points` inside any of the balls around `others` that reach to the k-th
    neighbour.
    """
    points, others = points.double(), others.double()
    radii = []
    for block in others.split(_BLOCK):
        # k + 1 because the nearest point is the point itself
        nearest = _squared_distances(block, others).topk(k + 1, largest=False).values
        radii.append(nearest[:, -1])
    radii = torch.cat(radii)
    inside = [(_squared_distances(block, others) <= radii).any(1) for block in points.split(_BLOCK)]
    return torch.cat(inside).double().mean().item()


def _squared_distances(a, b):
    """Squared distances (N, M) of float64 points (N, F) and (M, F), exactly 0 for equal points."""
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    squared = torch.addmm(norms, a, b.T, alpha=-2)
    return squared.masked_fill_(squared < _ROUNDING * norms, 0)


@dataclass(frozen=True)
class ClassifierOutputs:
    """Summary of a classifier's outputs for a set of N images, the same on every process.

    moments: Moments of the features of all images.
    features: float64 (n, F), those of the images `sample_indices(N, n)`.
    entropy: mean entropy of the softmax, in nats.
    confusion: counts (K, K) of labels and predictions, None without labels.
    """

    moments: Moments
    features: torch.Tensor
    entropy: float
    confusion: torch.Tensor | None

    @property
    def top1(self):
        """Accuracy on the labels in percent, None without labels."""
        if self.confusion is None:
            return None
        return 100 * self.confusion.trace().item() / self.confusion.sum().item()


@torch.no_grad()
def feature_dimension(classifier, image_size, device):
    """Number of features that enter the last layer of a classifier of images (N, 3, S, S)."""
    with LastFeatures(classifier) as last:
        classifier(torch.zeros(1, 3, image_size, image_size, device=device))
        return last.value.shape[1]


@torch.no_grad()
def classifier_outputs(classifier, loader, world, dimension, amp="off", title="images"):
    """Computes the ClassifierOutputs for every image of `loader`, over all processes.

    classifier: in eval mode; maps images (N, 3, H, W) in [0, 1] to logits and has `dimension`
    features. title: name of the images, for the progress bar and messages.
    Raises UserError if outputs are not finite.
    """
    count, device = len(loader.images), world.device
    moments = Moments(dimension, device)
    # Row of each image in `features`, -1 if it is not in the sample; in this process's order.
    sample = sample_indices(count, NEIGHBOUR_IMAGES)
    rows = np.full(count, -1)
    rows[sample] = np.arange(len(sample))
    rows = rows[world.rank :: world.size]
    features = torch.zeros(len(sample), dimension, dtype=torch.float64, device=device)
    entropy = torch.zeros((), dtype=torch.float64, device=device)
    classes = []
    bar = tqdm(
        total=count, desc=title, unit="image", disable=not world.is_main, leave=False, mininterval=1
    )
    with bar, LastFeatures(classifier) as last:
        start = 0
        for batch in loader.ordered_batches():
            images, _ = to_device(batch, device)
            with autocast(amp, device):
                logits = classifier(images).float()
            batch_features = last.value
            moments.update(batch_features)
            batch_rows = rows[start : start + len(images)]
            in_sample = np.flatnonzero(batch_rows >= 0)
            sample_rows = torch.from_numpy(batch_rows[in_sample]).to(device)
            features[sample_rows] = batch_features[torch.from_numpy(in_sample).to(device)].double()
            log_probabilities = F.log_softmax(logits, 1)
            entropy -= (log_probabilities.exp() * log_probabilities).sum(dtype=torch.float64)
            classes.append(logits.argmax(1))
            start += len(images)
            bar.update(len(images) * world.size)
    entropy = world.sum(entropy.cpu()).item()
    moments = moments.merged(world)
    if not (np.isfinite(entropy) and moments.scatter.isfinite().all()):
        raise UserError(
            f"the teacher's outputs for {title} are not all finite: check its checkpoint, or use "
            "--amp off"
        )
    confusion = None
    if loader.images.labels is not None:
        confusion = confusion_matrix(torch.cat(classes), loader.images, logits.shape[1], world)
    return ClassifierOutputs(
        moments, world.sum(features.cpu()).to(device), entropy / count, confusion
    )
