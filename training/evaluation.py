"""What a model says about rows that it is not fitted on."""

import numpy as np
import torch
from numpy.typing import NDArray

from training.data import Split
from training.models import Classifier

EVALUATION_BATCH = 256


def logits_of(
    model: Classifier, rows: Split, device: torch.device, precision: str = "float32", *, embedded: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits [N, C] and embeddings [N, E] of all rows, in order, without gradients. Leaves the model in eval mode.

    Args:
        embedded: False keeps no embeddings (N is 0 then): they are wide, and an epoch's validation has no use for them.
    """
    model.eval()
    logits, embeddings = [], []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for images, context, _ in rows.batches(EVALUATION_BATCH):
            answer = model(torch.tensor(images, device=device), torch.tensor(context, device=device))
            logits.append(answer[0].float().cpu().numpy())
            embeddings.append(answer[1][: None if embedded else 0].float().cpu().numpy())
    return np.concatenate(logits), np.concatenate(embeddings)
