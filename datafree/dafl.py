"""DAFL (arXiv 1904.01186): images of which the teacher is certain, that excite it, and of all
classes alike.

oh·CE(t, argmax t) − act·mean|features| + balance·Σ p̄ log p̄, where p̄ is the batch's mean softmax.
"""

from dataclasses import dataclass

from datafree import terms
from datafree.generative import Generative
from helper.features import LastFeatures
from helper.options import nonnegative_float, positive_float, positive_int, setting


@dataclass(frozen=True)
class Settings:
    """The published values for 32×32."""

    z_dim: int = setting(512, positive_int, "channels of the generator's noise")
    lr_g: float = setting(1e-3, positive_float, "learning rate of the generator")
    student_steps: int = setting(5, positive_int, "steps of the student after one of the generator")
    oh: float = setting(1.0, nonnegative_float, "weight of the cross-entropy with a class")
    act: float = setting(1e-3, nonnegative_float, "weight of the teacher's activations")
    balance: float = setting(20.0, nonnegative_float, "weight of the balance of the classes")


class DAFL(Generative):
    def __init__(self, teacher, *arguments, **keywords):
        """Raises UserError if the teacher has no linear layer, whose inputs are its features."""
        super().__init__(teacher, *arguments, **keywords)
        self.features = LastFeatures(teacher)

    def losses(self, images, student):
        with self.features:
            logits = self.teacher(images)
            active = terms.activation_loss(self.features.value)
        return {
            "class": self.settings.oh * terms.certainty_loss(logits),
            "activation": self.settings.act * active,
            "balance": self.settings.balance * terms.balance_loss(logits),
        }
