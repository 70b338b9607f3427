"""The tests of ``zsu-fast evaluate`` beyond accuracy: relearning, membership inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zsu_fast.cli.images import ImageSet
from zsu_fast.cli.session import Session
from zsu_fast.evaluate import Membership, Relearning, relearn
from zsu_fast.evaluate.inference import Progress
from zsu_fast.evaluate.membership import attack, scores


def relearn_class(
    session: Session,
    lessons: ImageSet,
    judged: ImageSet,
    targets: Sequence[int],
    steps: int,
    learning_rate: float,
    seed: int,
    progress: Progress,
) -> Relearning:
    """`zsu_fast.evaluate.relearn` on images from the disk, all held in memory: every step needs some of them."""
    assert lessons.labels is not None and judged.labels is not None
    if not bool(torch.isin(judged.labels, torch.tensor(list(targets))).any()):
        raise ValueError(f"--images holds no image of class {session.label(targets[0])}, by which --relearn is judged")
    return relearn(
        session.loaded.model,
        session.tensor(lessons),
        lessons.labels,
        targets,
        test=(session.tensor(judged), judged.labels),
        steps=steps,
        learning_rate=learning_rate,
        batch_size=session.batch_size,
        seed=seed,
        progress=progress,
    )


def attack_class(
    session: Session, trained: ImageSet, unseen: ImageSet, targets: Sequence[int], seed: int, progress: Progress
) -> dict[str, Membership]:
    """Membership inference, with the batches from the disk.

    Returns:
        "class": training images of the targets against unseen ones. "others": the same for all other classes, with
        the training images of the targets as the forgotten ones. "others_unseen": likewise, but with unseen images of
        the targets in their place, which is what the forgotten ones should look like.
    """
    scored = []
    for images, text in ((trained, "members"), (unseen, "nonmembers")):
        assert images.labels is not None
        found, done = [], 0
        for batch in images.batches(session.loaded.preprocess, session.batch_size):
            labels = images.labels[done : done + len(batch)]
            found.append(scores(session.loaded.model, batch, labels, name=text, batch_size=session.batch_size))
            done += len(batch)
            progress(done, len(images), text)
        own = torch.isin(images.labels, torch.tensor(list(targets)))
        values = torch.cat(found)
        scored.append([(values[mask], images.labels[mask]) for mask in (own, ~own)])
    (own_members, members), (own_unseen, nonmembers) = scored
    try:
        return {
            "class": attack(own_members, own_unseen, seed=seed),
            "others": attack(members, nonmembers, own_members, seed=seed),
            "others_unseen": attack(members, nonmembers, own_unseen, seed=seed),
        }
    except ValueError as error:
        raise ValueError(f"--members and --images, of the target and of the others alike: {error}") from None
