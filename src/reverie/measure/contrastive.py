"""The losses of two towers: in a batch each picture is to find its text among all texts, and each text its picture.

The logits are ``l_ij = s·⟨u_i, v_j⟩ + b`` of unit embeddings, u of pictures and v of texts. CLIP (Radford et al. 2021, figure 3) takes the
cross-entropy of each row and of each column; SigLIP (Zhai et al. 2023, equation 1) asks of every pair by itself whether it belongs
together. A caption that several pictures of a batch share belongs to each of them: its row is a distribution over them (Yang et al. 2022,
"Unified contrastive learning in image-text-label space", equation 3); where all captions differ, that is CLIP.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax_loss(logits: Tensor, same: Tensor) -> Tensor:
    """The mean of the cross-entropies of rows and of columns, a pair: (B,) nats.

    Args:
        logits: (B, B), of picture i with text j.
        same: (B, B) bool, whether texts i and j are one and the same; the identity where all differ.
    """
    target = same.to(logits)
    target = target / target.sum(1, keepdim=True)
    rows, columns = ((-target * each.log_softmax(1)).sum(1) for each in (logits, logits.T))
    return 0.5 * (rows + columns)


def sigmoid_loss(logits: Tensor, same: Tensor) -> Tensor:
    """``−Σ_j log σ(z_ij·l_ij)``, z = 1 where picture i belongs to text j and −1 elsewhere: (B,) nats; arguments as :func:`softmax_loss`."""
    return -F.logsigmoid(torch.where(same, logits, -logits)).sum(1)


LOSSES = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}
"""By the names that recipes have for them."""
