"""Evaluation of a classifier on the real validation set."""

import numpy as np
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


def confusion_matrix(classes, images, num_classes, world):
    """Counts (K, K), float64, over all processes: rows are the labels, columns the predictions.

    classes: the predictions (M,) of this rank, in the order of `ordered_batches`; images: the
    labelled ImageSet; num_classes: K.
    """
    labels = torch.from_numpy(images.labels[world.rank :: world.size].astype(np.int64))
    counts = torch.bincount(labels * num_classes + classes.cpu(), minlength=num_classes**2)
    return world.sum(counts.double()).view(num_classes, num_classes)


def order_warning(confusion, class_names):
    """Returns a warning if a classifier seems to have its classes in another order, else None.

    confusion: (K, K) as of `confusion_matrix`. There is another order if nine tenths of the classes
    that are predicted meet most often a label of their own, and the accuracy with these labels
    would be half as much again, and 20 points more, than it is. Too few images to tell (fewer than
    20 for a class): None.
    """
    count = confusion.sum().item()
    if count < 20 * len(confusion):
        return None
    most, likely = confusion.max(0)  # images with the most frequent label of each prediction
    predicted = most > 0
    if len(set(likely[predicted].tolist())) < 0.9 * predicted.sum():
        return None
    top1, renamed = 100 * confusion.trace().item() / count, 100 * most.sum().item() / count
    if renamed < max(1.5 * top1, top1 + 20):
        return None
    wrong = int((most * (likely != torch.arange(len(likely)))).argmax())
    return (
        f"warning: a top-1 of {top1:.2f} % would be {renamed:.2f} % with the classes in another "
        f"order: the classifier's class {wrong} (from 0) is mostly `{class_names[likely[wrong]]}`, "
        f"but here class {wrong} is `{class_names[wrong]}`. Number the classes as the classifier "
        "does (class folders are numbered in alphabetical order, numbers in numeric order), or use "
        "a classifier of this order"
    )


def accuracy_warning(confusion, class_names):
    """The `order_warning` of a confusion matrix (K, K), or else its `chance_warning`, or None."""
    top1 = 100 * confusion.trace().item() / confusion.sum().item()
    return order_warning(confusion, class_names) or chance_warning(top1, len(confusion))


def evaluate_teacher(teacher, name, loader, run, amp):
    """Evaluates the teacher of a Run and logs its accuracy, with a warning if it is near chance or
    its classes are in another order.

    Returns the values of `evaluate_classifier`.
    """
    metrics, classes = evaluate_classifier(teacher, loader, run.world, amp)
    run.log(f"teacher {name}: top-1 {metrics['top1']:.2f} % on the real validation set")
    names = loader.images.class_names
    confusion = confusion_matrix(classes, loader.images, len(names), run.world)
    if warning := accuracy_warning(confusion, names):
        run.log(warning)
    return metrics, classes
