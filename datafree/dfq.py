"""DFQ (arXiv 2005.04136): the certain and balanced images of DAFL, with the statistics of the
teacher's BatchNorm layers, on which teacher and student disagree.

oh·CE(t, argmax t) + balance·Σ p̄ log p̄ + bn·BN − adv·KL(t ‖ s)
"""

from dataclasses import dataclass

from datafree import terms
from datafree.batchnorm import BatchNormMatch
from datafree.generative import Generative
from helper.options import nonnegative_float, positive_float, positive_int, setting


@dataclass(frozen=True)
class Settings:
    """The defaults are the published values for 32×32."""

    z_dim: int = setting(256, positive_int, "channels of the generator's noise")
    lr_g: float = setting(1e-3, positive_float, "learning rate of the generator")
    student_steps: int = setting(10, positive_int, "student steps per generator step")
    oh: float = setting(1.0, nonnegative_float, "weight of the cross-entropy")
    balance: float = setting(20.0, nonnegative_float, "weight of the class balance")
    bn: float = setting(1.0, nonnegative_float, "weight of the BatchNorm distance")
    adv: float = setting(1.0, nonnegative_float, "weight of the divergence from the student")


class DFQ(Generative):
    def __init__(self, teacher, *arguments):
        """Raises UserError if the teacher has no BatchNorm layer."""
        super().__init__(teacher, *arguments)
        self.match = BatchNormMatch(teacher)

    def losses(self, images, student):
        with self.match:
            logits = self.teacher(images)
            distance = self.match.loss()
        # The student's own divergence; the public code passes the teacher twice, which gives zero.
        divergence = terms.divergences(logits, student(images)).mean()
        return {
            "class": self.settings.oh * terms.certainty_loss(logits),
            "balance": self.settings.balance * terms.balance_loss(logits),
            "statistics": self.settings.bn * distance,
            "adversarial": -self.settings.adv * divergence,
        }
