"""The loops that the training scripts share: steps, epochs, evaluation."""

import math
import time

import torch
import torch.nn.functional as F
from tqdm import tqdm

from helper.cost import Pace
from helper.distributed import StopRequest
from helper.losses import kd_loss, mixing
from helper.seeds import seed_step

SIGTERM_EXIT = 143  # what a shell reports for a process that SIGTERM ended


def make_schedule(options):
    """Returns lr(epochs done, a float) for `--schedule step` or `cosine`, with linear warm-up.

    Step: epochs count from 1 and the rate drops when epoch > milestone, as in the released code.
    Cosine: from `learning_rate` to `min_lr` over all steps.
    """

    def rate(position):
        if position < options.warmup_epochs:
            return options.learning_rate * position / options.warmup_epochs
        if options.schedule == "step":
            drops = sum(
                math.floor(position) + 1 > milestone for milestone in options.lr_decay_epochs
            )
            return options.learning_rate * options.lr_decay_rate**drops
        span = max(options.epochs - options.warmup_epochs, 1e-9)
        cosine = 0.5 * (1 + math.cos(math.pi * (position - options.warmup_epochs) / span))
        return options.min_lr + (options.learning_rate - options.min_lr) * cosine

    return rate


def autocast(amp, device, cache=True):
    """Returns the autocast context of `--amp`: bf16, or nothing.

    `cache`: weights are cast once within the context, which must then hold one forward pass and no
    optimizer step.
    """
    enabled = amp == "bf16" or (amp == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=cache)


def to_device(batch, device):
    """Moves a batch (uint8 images (N, H, W, 3), labels (N,)) to `device`; returns images (N, 3, H,
    W) in [0, 1].

    The permuted NHWC bytes are channels_last as they stand.
    """
    images, labels = batch
    images = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return images.float() / 255, labels.to(device, non_blocking=True)


def gradient_step(loss, optimizer):
    """Backward and update."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def distillation_step(network, teacher, optimizer, options, device, take=to_device):
    """Returns `step(batch)`, one step of the student `network` towards the frozen `teacher` (arXiv
    2305.12954, eq. 4).

    Both map images (N, 3, H, W) in [0, 1] to logits; the network is in training mode, the teacher
    in eval mode. options: `alpha`, `gamma`, `kd_T`, `no_tau2`, `use_aug`, `mix_beta` and `amp`.
    `take(batch, device)` makes images and labels of a batch, labels in 0…K−1 (anything where
    `gamma` is 0). The step returns sums over the batch, for `train_epoch`.
    """
    mix = mixing(options.use_aug, options.mix_beta)

    def step(batch):
        images, labels = take(batch, device)
        images = mix(images)
        with autocast(options.amp, device):
            with torch.no_grad():
                teacher_logits = teacher(images)
            logits = network(images)
        loss = options.alpha * kd_loss(
            logits, teacher_logits, options.kd_T, scaled=not options.no_tau2
        )
        if options.gamma:
            loss = loss + options.gamma * F.cross_entropy(logits.float(), labels)
        gradient_step(loss, optimizer)
        count = len(images)
        agreed = (logits.argmax(1) == teacher_logits.argmax(1)).sum()
        return {"loss": loss.detach() * count, "train_agreement": 100.0 * agreed, "count": count}

    return step


def train_epoch(
    batches, step, optimizer, rate, progress, *, steps, seed, world, stop, print_freq, title
):
    """Runs the rest of one epoch and returns whether it came to its end (False: stop was asked
    for).

    `step(batch)` makes one optimizer step and returns sums over its samples: 0-d tensors, and the
    number 'count'. They add up in float64 where they are and are read only every `print_freq`
    steps.
    """
    totals = dict(progress.totals)
    bar = tqdm(
        total=steps,
        initial=progress.step,
        desc=title,
        unit="step",
        disable=not world.is_main,
        leave=False,
        mininterval=1,
    )
    finished = True
    for index, batch in enumerate(batches, progress.step):
        seed_step(seed, progress.epoch, index, world.rank)
        for group in optimizer.param_groups:
            group["lr"] = rate(progress.epoch + index / steps)
        for name, value in step(batch).items():
            totals[name] = totals.get(name, 0.0) + (
                value.double() if isinstance(value, torch.Tensor) else value
            )
        bar.update()
        shown = (index + 1) % print_freq == 0
        if shown:
            bar.set_postfix(loss=f"{float(totals['loss'] / totals['count']):.4f}")
        if stop.agreed(
            world, shown or index + 1 == steps
        ):  # an epoch may have fewer steps than print_freq
            progress.step, finished = index + 1, False
            break
    bar.close()
    shared = world.sum(
        torch.tensor([float(value) for value in totals.values()], dtype=torch.float64)
    )
    progress.totals = dict(zip(totals, shared.tolist(), strict=True))
    return finished


def _with_pace(step, run, progress, loader, epochs):
    """Returns `step`, which on rank 0 also logs, once, what the run will still take at the first
    batches' rate.
    """
    if not run.world.is_main:
        return step
    pace = Pace(epochs * len(loader) * loader.batch_size, "image")
    done = (progress.epoch * len(loader) + progress.step) * loader.batch_size

    def wait():
        if run.world.device.type == "cuda":
            torch.cuda.synchronize(run.world.device)

    def timed_step(batch):
        nonlocal done
        sums = step(batch)
        done += loader.batch_size
        if line := pace.batch(done, wait):
            with tqdm.external_write_mode():  # the progress bar makes room
                run.log(line)
        return sums

    return timed_step


def fit(
    run,
    progress,
    loader,
    step,
    evaluate,
    optimizer,
    rate,
    options,
    prepare=lambda progress, stop: None,
):
    """Trains until `options.epochs` are done: every epoch its steps, the evaluation, a row of
    metrics, a checkpoint.

    `evaluate()` returns (metrics dict, score); the best score's weights are kept beside the latest.
    `prepare(progress, stop)` comes before an epoch's steps, of a resumed one too, and may look at
    the StopRequest. Asked to stop by SIGTERM, saves in the middle of the epoch and leaves with exit
    code 143.
    """
    world = run.world
    step = _with_pace(step, run, progress, loader, options.epochs)
    with StopRequest() as stop:
        while progress.epoch < options.epochs:
            prepare(progress, stop)
            started = time.monotonic()
            title = f"epoch {progress.epoch + 1}/{options.epochs}"
            if progress.step and not world.is_main:
                # Rank 0 carries the sums of the steps before the interruption.
                progress.totals = dict.fromkeys(progress.totals, 0.0)
            steps_before = progress.step
            finished = train_epoch(
                loader.epoch_batches(progress.epoch, progress.step),
                step,
                optimizer,
                rate,
                progress,
                steps=len(loader),
                seed=options.seed,
                world=world,
                stop=stop,
                print_freq=options.print_freq,
                title=title,
            )
            trained = time.monotonic() - started
            if not finished:
                progress.seconds += trained
                run.save(progress)
                run.log(
                    f"stopped by SIGTERM at step {progress.step} of {title}: saved, go on with "
                    "--resume"
                )
                raise SystemExit(SIGTERM_EXIT)
            count = progress.totals.pop("count")
            sums = {name: total / count for name, total in progress.totals.items()}
            metrics, score = evaluate()
            progress.seconds += time.monotonic() - started
            rate_now = rate(progress.epoch + (len(loader) - 1) / len(loader))
            images_s = (len(loader) - steps_before) * loader.batch_size / trained
            row = {
                "epoch": progress.epoch + 1,
                "lr": rate_now,
                **sums,
                "images_s": round(images_s, 1),
                **metrics,
            }
            run.end_epoch(progress, row, score, finished=progress.epoch + 1 == options.epochs)
            run.log(
                f"{title}  "
                + "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
            )


@torch.no_grad()
def predict(model, loader, world, amp="off"):
    """Returns (logits (M, K) float32, labels (M,)) on the CPU for this rank's images, the model in
    eval mode.

    Afterwards the model is in the mode that it was in before.
    """
    training = model.training
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
    model.train(training)
    return torch.cat(logits).cpu(), torch.cat(labels).cpu()


def evaluate_classifier(model, loader, world, amp="off", teacher_classes=None):
    """Measures a classifier on every image of `loader` exactly once, over all processes.

    `teacher_classes` is this rank's (M,) tensor of the teacher's predictions in the loader's order,
    for the agreement. Returns (dict of top1, top5, loss and, with a teacher, agreement; shares in
    percent), this rank's predictions (M,).
    """
    world.share_buffers(model)
    logits, labels = predict(model, loader, world, amp)
    classes = logits.argmax(1)
    ranked = logits.topk(min(5, logits.shape[1])).indices
    sums = [
        len(labels),
        (classes == labels).sum(),
        (ranked == labels[:, None]).sum(),
        F.cross_entropy(logits, labels, reduction="sum"),
    ]
    if teacher_classes is not None:
        sums.append((classes == teacher_classes).sum())
    count, top1, top5, loss, *agreement = world.sum(
        torch.tensor([float(value) for value in sums], dtype=torch.float64)
    ).tolist()
    metrics = {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "val_loss": loss / count}
    if agreement:
        metrics["agreement"] = 100 * agreement[0] / count
    return metrics, classes


def parallel(model, world):
    """Wraps a module for training on several processes; rank 0's BatchNorm statistics are shared at
    evaluation only.
    """
    if world.size == 1:
        return model
    from helper import distributed

    return distributed.parallel(model, world)


def compiled(network, options):
    """Returns the network through torch.compile if `--compile` asks for it."""
    return torch.compile(network) if options.compile else network


def make_optimizer(model, options):
    """Returns the optimizer that the flags describe: SGD with momentum, Adam or AdamW with their
    usual decays.
    """
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.optimizer]
    return kind(model.parameters(), options.learning_rate, weight_decay=options.weight_decay)


def report_teacher(run_folder, name, top1, num_classes):
    """Logs the accuracy of the teacher `name`, `top1` in percent, with a warning if it is hardly
    above chance.
    """
    run_folder.log(f"teacher {name}: top-1 {top1:.2f} % on the real validation set")
    if top1 < 3 * 100 / num_classes:
        run_folder.log(
            "warning: the teacher is below three times chance: its classes may be in another "
            "order, or its "
            "images normalised otherwise (--mean_t, --std_t)"
        )


def classifier_result(
    progress,
    options,
    loader,
    val_loader,
    *,
    method,
    teacher,
    student,
    source,
    images,
    table=None,
    teacher_top1=None,
):
    """Returns the fields of result.json for a classifier whose run is finished; accuracies in
    percent.
    """
    last = progress.rows[-1]
    return {
        "table": table,
        "method": method,
        "dataset": options.dataset,
        "teacher": teacher,
        "student": student,
        "source": source,
        "images": images,
        "epochs": options.epochs,
        "seed": options.seed,
        "val_split": options.val_split,
        "val_images": len(val_loader.images),
        "top1_last": last["top1"],
        "top1_best": max(row["top1"] for row in progress.rows),
        "top5_last": last["top5"],
        "agreement": last.get("agreement"),
        "teacher_top1": teacher_top1,
        "image_steps": options.epochs * len(loader) * loader.batch_size,
        "seconds": round(progress.seconds, 1),
    }
