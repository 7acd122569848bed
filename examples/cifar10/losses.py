"""What a network learns from besides the labels."""

import torch.nn.functional as F
from torch import Tensor


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """How far a network is from its teacher: the Kullback-Leibler divergence of their softened answers.

    Args:
        logits: Of the network.
        taught: Of the teacher.
        temperature: What both are divided by; the result is multiplied by its square, which keeps its gradient as large
            as that of the cross entropy.

    Shape:
        - logits, taught: ``(N, classes)``
        - Output: a scalar, the mean over the images

    Source: G. Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".
    """
    own, other = (F.log_softmax(part / temperature, 1) for part in (logits, taught))
    return F.kl_div(own, other, reduction="batchmean", log_target=True) * temperature**2
