"""FastDFKD (arXiv 2112.06253): a generator that is meta-learned so that a few steps give a batch.

In each round a copy of the generator and fresh noise take k steps on

    oh·CE(t, y) + bn·BN − adv·KL(t ‖ s)

where only images for which t and s predict the same class count in the KL. The generator learns
from these steps (first-order MAML or Reptile). The student trains on the images of all rounds.
"""

import copy
from dataclasses import dataclass

import torch

from datafree import Stopped, per_process, terms, views
from datafree.batchnorm import BatchNormMatch, evaluating
from helper.errors import UserError
from helper.finite import first_not_finite
from helper.options import (
    fraction,
    natural,
    nonnegative_float,
    one_of,
    positive_float,
    positive_int,
    setting,
)
from models.generators import make_generator

# Learning rates of generator and noise by k, from the published scripts
RATES = {
    2: {"lr_g": 5e-3, "lr_z": 0.015},
    5: {"lr_g": 3e-3, "lr_z": 0.01},
    10: {"lr_g": 2e-3, "lr_z": 0.01},
}
PADDING_DIVISOR = 8  # the crop's padding is 1/8 of the image size: 4 of 32 pixels
BOX_AREA = (0.75, 1.0)  # of the resized crop, as a fraction of the image


def published_settings(k):
    """{field: value} of Settings for `k` steps per round; other k than 2, 5, 10 use the rates of
    10.
    """
    return RATES.get(k, RATES[10])


@dataclass(frozen=True)
class Settings:
    """The defaults are the published values for 32×32, k = 10 and the pair RN-34 → RN-18."""

    z_dim: int = setting(256, positive_int, "channels of the generator's noise")
    k: int = setting(10, positive_int, "steps per round; lr_g and lr_z depend on it")
    batch: int = setting(256, positive_int, "images per round")
    lr_g: float = setting(RATES[10]["lr_g"], positive_float, "learning rate of the generator")
    lr_z: float = setting(RATES[10]["lr_z"], positive_float, "learning rate of the noise")
    meta: str = setting(
        "maml", one_of("maml", "reptile"), "meta-learning of the generator: maml or reptile"
    )
    lr_g_meta: float = setting(
        0.0, nonnegative_float, "learning rate of the meta-learning; 0: lr_g times k"
    )
    lr_z_meta: float = setting(
        0.0, nonnegative_float, "the same of the noise if z_rounds > 1; 0: lr_z times k"
    )
    z_rounds: int = setting(
        1, positive_int, "rounds between new draws of the noise, which is meta-learned in between"
    )
    oh: float = setting(
        0.5, nonnegative_float, "weight of the cross-entropy; 0.4 for FastDFKD's WRN pairs"
    )
    bn: float = setting(10.0, nonnegative_float, "weight of the BatchNorm distance")
    adv: float = setting(
        1.33,
        nonnegative_float,
        "weight of the divergence from the student; 1.0 for VGG-11, 1.1 for WRN",
    )
    bn_momentum: float = setting(
        0.9, fraction, "weight of earlier rounds in the BatchNorm statistics"
    )
    view: str = setting(
        "crop",
        one_of("crop", "resized"),
        "view of the images: crop (padded, flipped) or resized (a box of 0.75 to 1 of the area)",
    )
    keep: str = setting(
        "best", one_of("best", "last"), "step of a round whose images are kept: best or last"
    )
    warmup_rounds: int = setting(
        20, natural, "rounds before the first epoch, without the divergence from the student"
    )
    reset_round: int = setting(
        140, natural, "round at which the generator's first layer is reinitialised; 0: never"
    )

    @property
    def stages(self):
        """(divisor of the resolution, steps) of each stage of a round."""
        return ((1, self.k),)


class FastDFKD:
    """Rounds of images for a student in training; `rounds` counts the finished ones.

    The generator maps noise (N, *z_shape) to images (N, 3, S, S) in [0, 1]. Its first weights come
    from torch's global generator, which has the same state on all processes.
    It stays in training mode.
    """

    BETAS = (0.5, 0.999)  # of Adam

    def __init__(self, teacher, num_classes, image_size, grey, settings, world):
        """Raises UserError if the teacher has no BatchNorm layer, the generator cannot make images
        of `image_size` pixels, or the processes cannot divide the batch.
        """
        self.teacher, self.num_classes = teacher, num_classes
        self.settings, self.world = settings, world
        self.count = per_process(settings.batch, world)
        self.generator = make_generator(settings.z_dim, image_size, grey).to(world.device).train()
        self.match = BatchNormMatch(teacher, settings.bn_momentum)
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(),
            settings.lr_g_meta or settings.lr_g * settings.k,
            self.BETAS,
        )
        # With z_rounds > 1: noise (batch, *z_shape) of all processes
        self.noise = self.noise_optimizer = None
        self.rounds = 0

    def losses(self, images, labels, student):
        """The weighted terms {name: 0-d tensor} of the loss on images (N, 3, S, S) of the intended
        classes (N,), seen through a random view; called within `self.match`.

        The student plays no part in the warm-up rounds.
        """
        if self.settings.view == "crop":
            view = views.crop_and_flip(images, images.shape[-1] // PADDING_DIVISOR)
        else:
            view = views.resized_crop(images, BOX_AREA)
        logits = self.teacher(view)
        losses = {
            "class": self.settings.oh * terms.class_loss(logits, labels),
            "statistics": self.settings.bn * self.match.loss(),
        }
        if self.settings.adv and self.rounds >= self.settings.warmup_rounds:
            student_logits = student(view)
            agreement = logits.argmax(1) == student_logits.argmax(1)
            divergence = (terms.divergences(logits, student_logits) * agreement).mean()
            losses["adversarial"] = -self.settings.adv * divergence
        return losses

    def synthesize(self, student, should_stop=None):
        """Makes a round: this process's images, float32 (N, 3, S, S) in [0, 1], and labels (N,).

        Random numbers come from torch's global generators, which the caller seeds. `student` is in
        eval mode meanwhile. Raises Stopped if `should_stop()`, called before each step, is true;
        the method is then in the middle of a round and cannot be used any more. Raises UserError if
        the loss of a step is not finite.
        """
        if self.rounds + 1 == self.settings.reset_round:
            self.generator.reset_first()
            self.world.broadcast(self.generator.parameters())  # each process has drawn its own
        labels = torch.randint(self.num_classes, (self.count,), device=self.world.device)
        with evaluating(student), self.match:
            images = self._optimise(student, labels, should_stop)
            self.match.remember()
        self.world.average([value for pair in self.match.average for value in pair])
        self.rounds += 1
        return images, labels

    def _optimise(self, student, labels, should_stop):
        """Takes the k steps and the meta-learning step; returns the images (N, 3, S, S) to keep."""
        noise = self._initial_noise().requires_grad_()
        generator = copy.deepcopy(self.generator)
        leaves = [*generator.parameters(), noise]
        optimizer = torch.optim.Adam(
            [
                {"params": leaves[:-1], "lr": self.settings.lr_g},
                {"params": [noise], "lr": self.settings.lr_z},
            ],
            betas=self.BETAS,
        )
        sums = [torch.zeros_like(leaf) for leaf in leaves]  # of the gradients
        result, lowest = None, torch.full((), float("inf"), device=self.world.device)
        for _ in range(self.settings.k):
            if should_stop is not None and should_stop():
                raise Stopped
            images = generator(noise)
            loss = sum(self.losses(images, labels, student).values())
            gradients = torch.autograd.grad(loss, leaves)
            self.world.average(gradients[:-1])
            with torch.no_grad():
                images = images.detach().float()
                if result is None or self.settings.keep == "last":
                    result = images
                else:  # chosen on the device: the host need not wait for it
                    result = torch.where(loss < lowest, images, result)
                lowest = torch.minimum(loss, lowest)
                for leaf, gradient, total in zip(leaves, gradients, sums, strict=True):
                    leaf.grad = gradient
                    total += gradient
            optimizer.step()
        # A nan loss stays the lowest one, so one check after the last step is enough.
        if self.world.any(first_not_finite([lowest, optimizer.state_dict()]) is not None):
            raise UserError(
                f"round {self.rounds + 1}: the loss of the images is not finite: lower --lr_g, "
                "--lr_z or the weights of the loss, or check the teacher's checkpoint"
            )
        self._meta_step(self.optimizer, list(self.generator.parameters()), leaves[:-1], sums[:-1])
        if self.noise is not None:
            end, total = (self.world.gather(value.detach()) for value in (noise, sums[-1]))
            self._meta_step(self.noise_optimizer, [self.noise], [end], [total])
        return result

    def _meta_step(self, optimizer, starts, ends, sums):
        """One step of Adam on the tensors `starts` of a round: along the sum of its gradients
        (first-order MAML), or towards its `ends` (Reptile).
        """
        for start, end, total in zip(starts, ends, sums, strict=True):
            start.grad = total if self.settings.meta == "maml" else (start - end).detach()
        optimizer.step()
        optimizer.zero_grad()

    def _initial_noise(self):
        """This process's noise (N, *z_shape) at the start of a round: new, or meta-learned."""
        noise = torch.randn(self.count, *self.generator.z_shape, device=self.world.device)
        if self.settings.z_rounds == 1:
            return noise
        if self.rounds % self.settings.z_rounds == 0:
            self._set_noise(self.world.gather(noise))
        return self.noise[self.world.rank * self.count :][: self.count].clone()

    def _set_noise(self, noise):
        self.noise = noise
        rate = self.settings.lr_z_meta or self.settings.lr_z * self.settings.k
        self.noise_optimizer = torch.optim.Adam([noise], rate, self.BETAS)

    def state_dict(self):
        state = {
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "match": self.match.state_dict(),
            "rounds": self.rounds,
        }
        if self.noise is not None:
            state["noise"] = self.noise
            state["noise_optimizer"] = self.noise_optimizer.state_dict()
        return state

    def load_state_dict(self, state):
        for name in ("generator", "optimizer", "match"):
            getattr(self, name).load_state_dict(state[name])
        self.rounds = state["rounds"]
        if "noise" in state:
            self._set_noise(state["noise"].to(self.world.device))
            self.noise_optimizer.load_state_dict(state["noise_optimizer"])
