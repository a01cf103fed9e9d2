"""FastDFKD (arXiv 2112.06253): a generator that learns to be a good start, so that a few steps make
a batch of images.

A round: a copy of the generator and fresh noise take k steps on oh·CE(t, y) + bn·BN − adv·KL(t ‖ s
on the images where both see the same class), and the generator learns from them how to begin
(first-order MAML or Reptile). The student trains on the images of all rounds. torch is imported
where it computes: the flags need `Settings` alone.
"""

import copy
from dataclasses import dataclass

import torch

from datafree import Stopped, terms, views
from datafree.batchnorm import BatchNormMatch, evaluating
from helper.options import (
    natural,
    nonnegative_float,
    one_of,
    positive_float,
    positive_int,
    setting,
    share,
)

# Of the generator and of the noise, by k (the published scripts).
RATES = {
    2: {"lr_g": 5e-3, "lr_z": 0.015},
    5: {"lr_g": 3e-3, "lr_z": 0.01},
    10: {"lr_g": 2e-3, "lr_z": 0.01},
}
PADDING_SHARE = 8  # the padded crop goes 1/8 of the size beyond the image: 4 of 32 pixels
BOX_AREA = (0.75, 1.0)  # of the resized crop


def published_settings(k):
    """Returns {field: value} of Settings for `k` steps a round; for other k than 2, 5, 10 the rates
    of 10.
    """
    return RATES.get(k, RATES[10])


@dataclass(frozen=True)
class Settings:
    """The published values for 32×32, k = 10, the pair RN-34 → RN-18."""

    z_dim: int = setting(256, positive_int, "channels of the generator's noise")
    k: int = setting(
        10, positive_int, "steps a round; those of 2, 5 and 10 have rates of their own"
    )
    batch: int = setting(256, positive_int, "images a round")
    lr_g: float = setting(RATES[10]["lr_g"], positive_float, "learning rate of the generator")
    lr_z: float = setting(RATES[10]["lr_z"], positive_float, "learning rate of the noise")
    meta: str = setting(
        "maml", one_of("maml", "reptile"), "how the generator learns from a round: maml or reptile"
    )
    lr_g_meta: float = setting(0.0, nonnegative_float, "learning rate of that; 0: lr_g times k")
    lr_z_meta: float = setting(
        0.0, nonnegative_float, "the same of the noise, where z_rounds > 1; 0: lr_z times k"
    )
    z_rounds: int = setting(
        1, positive_int, "rounds after which the noise is drawn anew; in between it learns too"
    )
    oh: float = setting(
        0.5, nonnegative_float, "weight of the cross-entropy with a class; FastDFKD's WRN pairs 0.4"
    )
    bn: float = setting(
        10.0, nonnegative_float, "weight of the distance to the BatchNorm statistics"
    )
    adv: float = setting(
        1.33, nonnegative_float, "weight of the divergence from the student; VGG-11 1.0, WRN 1.1"
    )
    bn_momentum: float = setting(0.9, share, "share of earlier rounds in the batch's statistics")
    view: str = setting(
        "crop",
        one_of("crop", "resized"),
        "how the teacher sees the images: crop (padded, flipped) or "
        "resized (a box of 0.75 to 1 of the area)",
    )
    keep: str = setting(
        "best", one_of("best", "last"), "which of a round's steps gives its images: best or last"
    )
    warmup_rounds: int = setting(20, natural, "rounds before the first epoch, without student")
    reset_round: int = setting(
        140, natural, "round at which the generator's first layer is drawn anew; 0: none"
    )


class FastDFKD:
    """Rounds of images for a student in training, in the protocol of the methods with a pool.

    Made as `datafree.generative` says. `rounds` counts those done.
    """

    BETAS = (0.5, 0.999)  # Adam's

    def __init__(self, teacher, num_classes, image_size, settings, world, generator):
        """`settings.batch` is a multiple of the processes. Raises UserError if the teacher has no
        BatchNorm layer.
        """
        self.teacher, self.num_classes, self.settings, self.world = (
            teacher,
            num_classes,
            settings,
            world,
        )
        self.share = settings.batch // world.size
        self.generator, self.match = (
            generator.train(),
            BatchNormMatch(teacher, settings.bn_momentum),
        )
        self.optimizer = torch.optim.Adam(
            generator.parameters(), settings.lr_g_meta or settings.lr_g * settings.k, self.BETAS
        )
        self.noise = self.noise_optimizer = (
            None  # (batch, *z_shape) of all processes, where it outlives a round
        )
        self.rounds = 0

    def losses(self, images, labels, student):
        """Returns {name: weighted term, a 0-d tensor} of images (N, 3, S, S) that are to show the
        classes (N,), seen through a random view; within `self.match`. The student plays no part in
        the first rounds.
        """
        if self.settings.view == "crop":
            view = views.crop_and_flip(images, images.shape[-1] // PADDING_SHARE)
        else:
            view = views.resized_crop(images, BOX_AREA)
        logits = self.teacher(view)
        losses = {
            "class": self.settings.oh * terms.class_loss(logits, labels),
            "statistics": self.settings.bn * self.match.loss(),
        }
        if self.settings.adv and self.rounds >= self.settings.warmup_rounds:
            seen = student(view)
            agreed = logits.argmax(1) == seen.argmax(1)
            losses["adversarial"] = (
                -self.settings.adv * (terms.divergences(logits, seen) * agreed).mean()
            )
        return losses

    def synthesize(self, student, should_stop=lambda: False):
        """Returns this process's images of a round, float32 (N, 3, S, S) in [0, 1] on the device,
        and labels (N,).

        Draws come from torch's global generators, which the caller seeds. `student` is in eval mode
        meanwhile. Raises Stopped if `should_stop()`, asked at each step, says yes: the method is
        then in the middle of a round and of no further use.
        """
        if self.rounds + 1 == self.settings.reset_round:
            self.generator.reset_first()
            self.world.share(self.generator.parameters())  # each process draws its own
        labels = torch.randint(self.num_classes, (self.share,), device=self.world.device)
        with evaluating(student), self.match:
            images = self._descend(student, labels, should_stop)
            self.match.remember()
        self.world.average([value for pair in self.match.average for value in pair])
        self.rounds += 1
        return images, labels

    def _descend(self, student, labels, should_stop):
        """Makes the k steps, lets the generator learn from them, and returns the images (N, 3, S,
        S) to keep.
        """
        noise = self._first_noise().requires_grad_()
        generator = copy.deepcopy(self.generator)
        leaves = [*generator.parameters(), noise]
        optimizer = torch.optim.Adam(
            [
                {"params": leaves[:-1], "lr": self.settings.lr_g},
                {"params": [noise], "lr": self.settings.lr_z},
            ],
            betas=self.BETAS,
        )
        kept, lowest = None, torch.full((), float("inf"), device=self.world.device)
        sums = [torch.zeros_like(leaf) for leaf in leaves]
        for _ in range(self.settings.k):
            if should_stop():
                raise Stopped
            images = generator(noise)
            loss = sum(self.losses(images, labels, student).values())
            gradients = torch.autograd.grad(loss, leaves)
            self.world.average(gradients[:-1])
            with torch.no_grad():
                # Chosen on the device, which the host need not wait for.
                better = (
                    loss < lowest
                    if self.settings.keep == "best"
                    else torch.ones_like(loss, dtype=torch.bool)
                )
                images = images.detach().float()
                kept = images if kept is None else torch.where(better, images, kept)
                lowest = torch.minimum(loss, lowest)
                for leaf, gradient, total in zip(leaves, gradients, sums, strict=True):
                    leaf.grad = gradient
                    total += gradient
            optimizer.step()
        self._learn(self.optimizer, list(self.generator.parameters()), leaves[:-1], sums[:-1])
        if self.noise is not None:
            moved, total = (self.world.gather(value.detach()) for value in (noise, sums[-1]))
            self._learn(self.noise_optimizer, [self.noise], [moved], [total])
        return kept

    def _learn(self, optimizer, starts, ends, sums):
        """One step of Adam of the tensors `starts` that a round began with: against the sums of its
        gradients (first-order MAML), or towards its `ends` (Reptile).
        """
        for start, end, total in zip(starts, ends, sums, strict=True):
            start.grad = total if self.settings.meta == "maml" else (start - end).detach()
        optimizer.step()
        optimizer.zero_grad()

    def _first_noise(self):
        """Returns this process's noise (N, *z_shape) at the start of a round: drawn, or what
        earlier rounds learnt.
        """
        drawn = torch.randn(self.share, *self.generator.z_shape, device=self.world.device)
        if self.settings.z_rounds == 1:
            return drawn
        if self.rounds % self.settings.z_rounds == 0:
            self._set_noise(self.world.gather(drawn))
        return self.noise[self.world.rank * self.share :][: self.share].clone()

    def _set_noise(self, noise):
        self.noise = noise
        rate = self.settings.lr_z_meta or self.settings.lr_z * self.settings.k
        self.noise_optimizer = torch.optim.Adam([noise], rate, self.BETAS)

    def state_dict(self):
        noise = (
            {}
            if self.noise is None
            else {"noise": self.noise, "noise_optimizer": self.noise_optimizer.state_dict()}
        )
        return {
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "match": self.match.state_dict(),
            "rounds": self.rounds,
            **noise,
        }

    def load_state_dict(self, state):
        for name in ("generator", "optimizer", "match"):
            getattr(self, name).load_state_dict(state[name])
        self.rounds = state["rounds"]
        if "noise" in state:
            self._set_noise(state["noise"].to(self.world.device))
            self.noise_optimizer.load_state_dict(state["noise_optimizer"])
