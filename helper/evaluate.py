"""Evaluation of a classifier on the real validation set."""

import torch
import torch.nn.functional as F
from tqdm import tqdm

from helper.device import autocast, to_device
from helper.errors import UserError


@torch.no_grad()
def predict(model, loader, world, amp="off"):
    """Returns (logits (M, K) float32, labels (M,)) on the CPU for the images of this rank.

    The model is in eval mode meanwhile; its previous mode is restored.
    Raises UserError, on all ranks, if a logit is not finite.
    """
    was_training = model.training
    model.eval()
    logits, labels = [], []
    bar = tqdm(
        total=len(loader.images),
        desc="evaluation",
        unit="image",
        disable=not world.is_main,
        leave=False,
        mininterval=1,
    )
    with bar:
        for batch in loader.ordered_batches():
            images, targets = to_device(batch, world.device)
            with autocast(amp, world.device):
                logits.append(model(images).float())
            labels.append(targets)
            bar.update(len(images) * world.size)
    model.train(was_training)
    logits = torch.cat(logits).cpu()
    if world.any(not logits.isfinite().all()):
        raise UserError(
            "the outputs of the classifier are not all finite: check the checkpoint that is given, "
            "or, if it is in training, lower --learning_rate or --weight_decay, or give --amp off"
        )
    return logits, torch.cat(labels).cpu()


def evaluate_classifier(model, loader, world, amp="off", teacher_classes=None):
    """Measures a classifier on every image of `loader` exactly once, over all processes.

    teacher_classes: the teacher's predictions (M,) for the images of this rank, for the agreement.
    Returns ({top1, top5, val_loss and, with a teacher, agreement}, predictions (M,) of this rank);
    accuracies and agreement are in percent.
    """
    world.broadcast_buffers(model)
    logits, labels = predict(model, loader, world, amp)
    classes = logits.argmax(1)
    top5 = logits.topk(min(5, logits.shape[1])).indices
    sums = [
        len(labels),
        (classes == labels).sum(),
        (top5 == labels[:, None]).sum(),
        F.cross_entropy(logits, labels, reduction="sum"),
    ]
    if teacher_classes is not None:
        sums.append((classes == teacher_classes).sum())
    sums = torch.tensor([float(value) for value in sums], dtype=torch.float64)
    count, top1, top5, loss, *agreement = world.sum(sums).tolist()
    metrics = {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "val_loss": loss / count}
    if agreement:
        metrics["agreement"] = 100 * agreement[0] / count
    return metrics, classes


def chance_warning(top1, num_classes):
    """Returns a warning if the accuracy of a classifier, in percent, is near chance, else None.

    The bound is three times chance, or halfway between chance and 100 % if that is less (for fewer
    than five classes).
    """
    chance = 100 / num_classes
    bound = min(3 * chance, (chance + 100) / 2)
    if top1 >= bound:
        return None
    return (
        f"warning: a top-1 of {top1:.2f} % is near chance (below {bound:.2f} %; chance is "
        f"{chance:.2f} %): the classes may be in another order than the classifier's, or the "
        "images normalised differently (--mean_…, --std_…)"
    )


def evaluate_teacher(teacher, name, loader, run, amp):
    """Evaluates the teacher of a Run and logs its accuracy, with a warning if it is near chance.

    Returns the values of `evaluate_classifier`.
    """
    metrics, classes = evaluate_classifier(teacher, loader, run.world, amp)
    run.log(f"teacher {name}: top-1 {metrics['top1']:.2f} % on the real validation set")
    if warning := chance_warning(metrics["top1"], len(loader.images.class_names)):
        run.log(warning)
    return metrics, classes
