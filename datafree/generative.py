"""Methods that train a generator beside the student and use each image once: DAFL, DFQ.

Each of them consists of its `Settings` and its `losses`; the rest is here.
"""

import torch

from datafree.batchnorm import evaluating
from models.generators import make_generator


class Generative:
    """A generator that takes one step of Adam before every `settings.student_steps` student steps.

    The generator maps noise (N, *z_shape) to images (N, 3, S, S) in [0, 1]. Its first weights come
    from torch's global generator, which has the same state on all processes.
    It stays in training mode, as in the published code: its BatchNorm uses the batch's statistics.
    """

    BETAS = (0.5, 0.999)  # of Adam

    def __init__(self, teacher, num_classes, image_size, grey, settings, world):
        """All methods, those with a pool too, are built with these arguments.

        grey: the three channels of an image are equal. Raises UserError if the generator cannot
        make images of `image_size` pixels.
        """
        self.teacher, self.settings, self.world = teacher, settings, world
        self.generator = make_generator(settings.z_dim, image_size, grey).to(world.device).train()
        self.optimizer = torch.optim.Adam(self.generator.parameters(), settings.lr_g, self.BETAS)
        self.loss = torch.zeros((), device=world.device)  # of the last step

    def losses(self, images, student):
        """The weighted terms {name: 0-d tensor} of the generator's loss on images (N, 3, S, S)."""
        raise NotImplementedError

    def update(self, student, count):
        """Takes one step of the generator on `count` new images per process; returns the terms.

        Noise comes from torch's global generators. `student` maps images in [0, 1] to logits; it is
        in eval mode meanwhile and its parameters get no gradients.
        """
        parameters = list(self.generator.parameters())
        self.world.broadcast_buffers(student)  # in training they differ between processes
        with evaluating(student):
            terms = self.losses(self.generator(self._noise(count)), student)
            loss = sum(terms.values())
            gradients = torch.autograd.grad(loss, parameters)
        self.loss = loss.detach()
        self.world.average([*gradients, self.loss])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def images(self, count):
        """`count` new images (count, 3, S, S), float32 in [0, 1], without a graph."""
        with torch.no_grad():
            return self.generator(self._noise(count)).float()

    def _noise(self, count):
        return torch.randn(count, *self.generator.z_shape, device=self.world.device)

    def state_dict(self):
        return {
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss": self.loss,
        }

    def load_state_dict(self, state):
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss = state["loss"].to(self.world.device)
