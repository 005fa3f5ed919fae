"""Training in which a share of every batch is attacked, and another share covered."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from bdbench import Batch, BdbenchError, Covers, Split, Victim, Workshop

Cover = Callable[[np.ndarray, Batch, np.random.Generator], np.ndarray]
"""Makes covers of the training examples at an index (m,), for a batch, from a stream: uint8 (m, H, W, C)."""


def trained_jointly(attack: Covers, train: Split, tools: Workshop, cover: Cover) -> Victim:
    """The victim, trained by its own recipe on batches that the attacker changes.

    Of each batch, ``rate`` of it is stamped and given its goal, ``cover_rate`` becomes covers, and the rest is clean;
    the shares are met in the mean. What is changed is drawn anew in every epoch, before augmentation. Raises
    BdbenchError if the shares are more than all.
    """
    if attack.rate + attack.cover_rate > 1:
        raise BdbenchError(
            f"attack {attack.name!r}: rate={attack.rate:g} and cover_rate={attack.cover_rate:g} are more than a batch: "
            "expected a sum of at most 1"
        )
    images, labels = np.asarray(train.images), train.labels
    goal = attack.goal(labels, tools.num_classes)
    stamped = attack.stamp(images, tools.streams)
    draws = tools.streams.child("batches")

    def loss(batch: Batch) -> torch.Tensor:
        index = batch.index.cpu().numpy()
        # No two batches of an epoch begin with the same example.
        stream = draws(f"{batch.epoch}:{index[0]}")
        attacked, covers = (int(share * len(index) + stream.random()) for share in (attack.rate, attack.cover_rate))
        shown, wanted = images[index], labels[index]
        shown[:attacked], wanted[:attacked] = stamped[index[:attacked]], goal[index[:attacked]]
        covered = slice(attacked, attacked + covers)
        if len(index[covered]):
            shown[covered] = cover(index[covered], batch, stream)
        x = batch.prepare(torch.from_numpy(shown))
        return cross_entropy(
            batch.network(x), torch.from_numpy(wanted).to(x.device), label_smoothing=tools.recipe.label_smoothing
        )

    return tools.train(images, labels, "joint training", loss=loss, kept={"attack": attack.config()})
