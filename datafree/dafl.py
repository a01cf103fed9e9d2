"""DAFL (arXiv 1904.01186): images that the teacher is certain about, that activate its features,
and whose classes are balanced.

oh·CE(t, argmax t) − act·mean|features| + balance·Σ p̄ log p̄, with p̄ the batch's mean softmax.
"""

from dataclasses import dataclass

from datafree import terms
from datafree.generative import Generative
from helper.features import LastFeatures
from helper.options import nonnegative_float, positive_float, positive_int, setting


@dataclass(frozen=True)
class Settings:
    """The defaults are the published values for 32×32."""

    z_dim: int = setting(512, positive_int, "channels of the generator's noise")
    lr_g: float = setting(1e-3, positive_float, "learning rate of the generator")
    student_steps: int = setting(5, positive_int, "student steps per generator step")
    oh: float = setting(1.0, nonnegative_float, "weight of the cross-entropy")
    act: float = setting(1e-3, nonnegative_float, "weight of the activation term")
    balance: float = setting(20.0, nonnegative_float, "weight of the class balance")


class DAFL(Generative):
    def __init__(self, teacher, *arguments):
        """Raises UserError if the teacher has no layer whose input could be its features."""
        super().__init__(teacher, *arguments)
        self.features = LastFeatures(teacher)

    def losses(self, images, student):
        with self.features:
            logits = self.teacher(images)
            activation = terms.activation_loss(self.features.value)
        return {
            "class": self.settings.oh * terms.certainty_loss(logits),
            "activation": self.settings.act * activation,
            "balance": self.settings.balance * terms.balance_loss(logits),
        }
