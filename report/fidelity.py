"""How near one set of images is to another in a classifier's feature space, and what the classifier
says of them.

Fréchet distance: Heusel et al., arXiv 1706.08500, with a classifier's features in place of
Inception's. Precision and recall: Kynkäänniemi et al., arXiv 1904.06991. Features come batch by
batch, and what is kept of them does not grow with the images.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from helper.errors import UserError
from helper.features import LastFeatures
from helper.loops import autocast, to_device

NEIGHBOUR_IMAGES = 10_000  # images of each set that precision and recall are measured on, at most
LEAST_NEIGHBOUR_IMAGES = 1_000
LEAST_FRECHET_IMAGES = 2_048
_BLOCK = 1_000  # rows of a distance matrix at a time: 80 MB for 10,000 columns
_ROUNDING = (
    1e-12  # of squared distances against squared norms: below it two fp32 feature vectors are one
)


class Moments:
    """Count, mean (F,) and scatter matrix (F, F), the sum of the centred features' outer products,
    in float64.
    """

    def __init__(self, dimension, device="cpu"):
        self.count = 0
        self.mean = torch.zeros(dimension, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dimension, dimension, dtype=torch.float64, device=device)

    def update(self, features):
        """Takes in a batch (N, F), N ≥ 1. Each batch is centred by itself, so that nothing large is
        subtracted.
        """
        x = features.double()
        count, centre = self.count + len(x), x.mean(0)
        shift = centre - self.mean
        x = x - centre
        self.scatter.addmm_(x.T, x).addr_(shift, shift, alpha=self.count * len(x) / count)
        self.mean += shift * (len(x) / count)
        self.count = count

    def merged(self, world):
        """Returns the Moments of the features that all processes have taken in, the same in each of
        them.
        """
        whole = Moments(len(self.mean), self.mean.device)
        sums = world.sum(
            torch.cat([self.mean * self.count, self.mean.new_tensor([self.count])]).cpu()
        )
        whole.count = round(sums[-1].item())
        whole.mean += (sums[:-1] / whole.count).to(self.mean.device)
        shift = self.mean - whole.mean
        whole.scatter += world.sum(
            (self.scatter + self.count * torch.outer(shift, shift)).cpu()
        ).to(shift.device)
        return whole

    @property
    def covariance(self):
        """The unbiased covariance matrix (F, F) of at least two features."""
        return self.scatter / (self.count - 1)


def least_frechet_images(dimension):
    """Returns how many images of each set a Fréchet distance in `dimension` features needs.

    The covariance of fewer images than features is singular, and the distance from a few of them is
    far too large.
    """
    return max(LEAST_FRECHET_IMAGES, 2 * dimension)


def frechet_distance(first, second):
    """Returns ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) of two Moments, a float ≥ 0 (arXiv 1706.08500,
    eq. 6).

    tr (Σ₁ Σ₂)^½ is that of (Σ₁^½ Σ₂ Σ₁^½)^½, a symmetric matrix without negative eigenvalues.
    """
    values, vectors = torch.linalg.eigh(first.covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = root @ second.covariance @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    traces = first.covariance.trace() + second.covariance.trace()
    distance = (first.mean - second.mean).square().sum() + traces - 2 * cross
    return max(distance.item(), 0.0)  # of equal sets, rounding can go below


def chosen_places(count, most):
    """Returns `most` of the places 0…count−1 of a set, int64 (min(most, count),), chosen and
    ordered by a fixed hash.

    A place's hash does not depend on the set: fewer places are a prefix of more. It is SplitMix64's
    finalizer (Steele et al., 2014), which maps no two places to one value.
    """
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(x ^ (x >> np.uint64(31)))[:most]


def precision_recall(generated, real, k):
    """Returns (precision, recall), shares in [0, 1], of features (N, F) and (M, F) (arXiv
    1904.06991, eqs. 1 and 2).

    Precision: the share of generated images that lie no farther from some real one than its k-th
    nearest real neighbour does; recall: the same with the sets exchanged. The paper takes N = M; k
    < N and k < M.
    """
    return _share_inside(generated, real, k), _share_inside(real, generated, k)


def _share_inside(points, others, k):
    """Returns the share of `points` inside of the ball, reaching to its k-th neighbour, of any of
    `others`.
    """
    points, others = points.double(), others.double()
    radii = torch.cat(
        [
            _squared_distances(block, others).topk(k + 1, largest=False).values[:, -1]
            for block in others.split(_BLOCK)
        ]
    )  # k + 1: each is its own nearest
    inside = [(_squared_distances(block, others) <= radii).any(1) for block in points.split(_BLOCK)]
    return torch.cat(inside).double().mean().item()


def _squared_distances(a, b):
    """Returns the squared distances (N, M) of float64 points (N, F) and (M, F), exactly 0 of equal
    ones.
    """
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    squared = torch.addmm(norms, a, b.T, alpha=-2)
    return squared.masked_fill_(squared < _ROUNDING * norms, 0)


@dataclass(frozen=True)
class Sight:
    """What a classifier sees in a set of N images; the same on every process.

    moments: Moments of its features; features: float64 (n, F), those of the images at
    `chosen_places(N, n)`; top1: the share, in percent, of images whose label it names first, None
    without labels; entropy: the mean entropy of its softmax, in nats.
    """

    moments: Moments
    features: torch.Tensor
    top1: float | None
    entropy: float


@torch.no_grad()
def feature_dimension(classifier, image_size, device):
    """Returns F, how many features the last layer of a classifier of images (N, 3, S, S) in [0, 1]
    is given.
    """
    with LastFeatures(classifier) as last:
        classifier(torch.zeros(1, 3, image_size, image_size, device=device))
        return last.value.shape[1]


@torch.no_grad()
def look(classifier, loader, world, dimension, amp="off", title="images"):
    """Returns the Sight of a frozen classifier, in eval mode, of every image of `loader`, over all
    processes.

    `classifier` maps images (N, 3, H, W) in [0, 1] to logits and has `dimension` features. `title`
    names the images. Raises UserError if it gives anything but numbers.
    """
    count, device = len(loader.images), world.device
    moments = Moments(dimension, device)
    places = chosen_places(count, NEIGHBOUR_IMAGES)
    row_of = np.full(count, -1)
    row_of[places] = np.arange(len(places))
    rows = row_of[world.rank :: world.size]  # in the order in which this process reads
    features = torch.zeros(len(places), dimension, dtype=torch.float64, device=device)
    hits, entropy = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
    bar = tqdm(
        total=count, desc=title, unit="image", disable=not world.is_main, leave=False, mininterval=1
    )
    with bar, LastFeatures(classifier) as last:
        done = 0
        for batch in loader.ordered_batches():
            images, labels = to_device(batch, device)
            with autocast(amp, device):
                logits = classifier(images).float()
            seen = last.value
            moments.update(seen)
            mine = rows[done : done + len(images)]
            kept = np.flatnonzero(mine >= 0)
            features[torch.from_numpy(mine[kept]).to(device)] = seen[
                torch.from_numpy(kept).to(device)
            ].double()
            log_shares = F.log_softmax(logits, 1)
            entropy -= (log_shares.exp() * log_shares).sum(dtype=torch.float64)
            hits += (logits.argmax(1) == labels).sum()
            done += len(images)
            bar.update(len(images) * world.size)
    hits, entropy = world.sum(torch.stack([hits, entropy]).cpu()).tolist()
    moments = moments.merged(world)
    if not (np.isfinite(entropy) and moments.scatter.isfinite().all()):
        raise UserError(
            f"the teacher's outputs for {title} are not all finite numbers: check its checkpoint, "
            "or give "
            "--amp off"
        )
    return Sight(
        moments,
        world.sum(features.cpu()).to(device),
        None if loader.images.labels is None else 100 * hits / count,
        entropy / count,
    )
