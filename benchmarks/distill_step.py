"""Time of a distillation step beside two references, and its share of the machine's matmul rate.

    python -m benchmarks.distill_step        # three pairs, on the GPU or CPU of this machine
    python -m benchmarks.distill_step --pairs wrn_16_2 --batch_size 128 --threads 1

Ours is the step of train_student.py on the bytes that its loader yields. The references are written
here after what is known of the published code, with the same architectures and weights:
* DM-KD: the teacher's features are detached and its logits are not, so the backward pass also runs
  through the teacher and computes gradients of its weights, which nobody uses.
* RepDistiller: the teacher runs under no_grad; the cross-entropy is computed whatever its weight.
Both read loss, top-1 and top-5 with `.item()` in every step. They take contiguous (NCHW) float
images that the host has already normalised: this time is spent in their loader and is not measured,
whereas ours includes the normalisation.
"""

import copy
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from benchmarks import timing
from helper.cost import forward_operations
from helper.device import autocast, to_device
from helper.errors import UserError, run_script
from helper.losses import kd_loss
from helper.optim import make_optimizer, update
from helper.options import Parser, positive_int
from models.architectures import create_model
from models.classifiers import load_teacher, make_student

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The released recipe for 32×32 images; the time does not depend on the values.
ALPHA, GAMMA, TEMPERATURE = 1.0, 0.0, 4.0  # weights of KL and cross-entropy; tau
SGD = {"learning_rate": 0.05, "weight_decay": 5e-4, "momentum": 0.9}
OURS, DMKD, REPDISTILLER = "ours", "DM-KD", "RepDistiller"
MATMUL = "matmul"


class Pair(NamedTuple):
    """Teacher, student and their images; the batch size on a GPU is the published one."""

    teacher: str
    student: str
    classes: int
    size: int  # pixels
    cpu_batch: int
    gpu_batch: int


PAIRS = {
    "wrn_16_2": Pair("wrn_40_2", "wrn_16_2", 100, 32, 64, 128),
    "wrn_16_1": Pair("wrn_40_2", "wrn_16_1", 100, 32, 64, 128),
    "ResNet18": Pair("ResNet18", "ResNet18", 1000, 224, 8, 256),
}


def parse_option(argv=None):
    """Parses and checks the flags. Raises UserError."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--pairs",
        default=",".join(PAIRS),
        help="students, separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--batch_size", type=positive_int, help="default: depends on pair and device"
    )
    parser.add_argument(
        "--steps", type=positive_int, help="steps per timed run (default: 1; 20 on a GPU)"
    )
    parser.add_argument(
        "--amp", choices=["off", "bf16"], default="off", help="bf16 autocast of all three steps"
    )
    timing.add_flags(parser, repeats=15)
    options = parser.parse_args(argv)
    options.pairs = options.pairs.split(",")
    if unknown := [name for name in options.pairs if name not in PAIRS]:
        raise UserError(f"--pairs {unknown[0]} is none of {', '.join(PAIRS)}")
    return options


def make_steps(pair, batch_size, size, device, amp="off"):
    """Returns {name: step()} of our step and the references, on copies of the same networks and the
    same images of `size` pixels.

    Every call is one optimisation step on the same batch. Ours returns 0-d tensors on the device,
    `loss` and `agreement`; the references return the numbers that they read: loss, top1, top5.
    """
    torch.manual_seed(0)
    images = torch.randint(0, 256, (batch_size, size, size, 3), dtype=torch.uint8)  # of a loader
    labels = torch.randint(0, pair.classes, (batch_size,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.pth"
        network = create_model(pair.teacher, pair.classes)
        torch.save(with_statistics(network).state_dict(), path)
        teacher = load_teacher(path, pair.classes, MEAN, STD, pair.teacher).to(device)
        their_teacher = create_model(pair.teacher, pair.classes, checkpoint=path).eval().to(device)
    student = make_student(pair.student, pair.classes, MEAN, STD).to(device)
    their_student = copy.deepcopy(student.net).to(memory_format=torch.contiguous_format)

    def on_host(*tensors):
        return [tensor.pin_memory() if device.type == "cuda" else tensor for tensor in tensors]

    our_batch = on_host(images, labels)
    step = our_step(student, teacher, make_optimizer("sgd", student.parameters(), **SGD), amp)
    steps = {OURS: lambda: step(*to_device(our_batch, device))}

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    their_batch = on_host(((images.permute(0, 3, 1, 2) / 255 - mean) / std).contiguous(), labels)
    for name, make in ((DMKD, dmkd_step), (REPDISTILLER, repdistiller_step)):
        network = copy.deepcopy(their_student)
        optimizer = make_optimizer("sgd", network.parameters(), **SGD)
        step_of = make(network, copy.deepcopy(their_teacher), optimizer, amp)
        steps[name] = lambda step=step_of: step(
            *(tensor.to(device, non_blocking=True) for tensor in their_batch)
        )
    return steps


def with_statistics(network):
    """Gives the BatchNorms of a new network random statistics, so that none is zero or one."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def our_step(student, teacher, optimizer, amp):
    """Returns `step(images, labels)`, the step of train_student.py; nothing waits for the device.

    The weight of the cross-entropy is 0: the labels are not used.
    """

    def step(images, _):
        with autocast(amp, images.device):
            with torch.no_grad():
                teacher_logits = teacher(images)
            logits = student(images)
        loss = ALPHA * kd_loss(logits, teacher_logits, TEMPERATURE)
        update(optimizer, loss)
        agreement = (logits.argmax(1) == teacher_logits.argmax(1)).float().mean()
        return {"loss": loss.detach(), "agreement": 100.0 * agreement}

    return step


def dmkd_step(student, teacher, optimizer, amp):
    """Returns `step(images, labels)` of DM-KD's released loop: no no_grad around the teacher.

    The loss is differentiated with respect to the teacher's logits and weights too. These gradients
    add up and are never used: the optimizer has the student's parameters only.
    """
    meters = Meters()

    def step(images, labels):
        with autocast(amp, images.device):
            logits = student(images)
            teacher_logits = teacher(images)
        loss = ALPHA * softened_kl(logits, teacher_logits, TEMPERATURE)
        top1, top5 = accuracy(logits, labels)
        meters.add(loss=loss.item(), top1=top1.item(), top5=top5.item())
        update(optimizer, loss)
        return meters.last

    return step


def repdistiller_step(student, teacher, optimizer, amp):
    """Returns `step(images, labels)` of RepDistiller's loop for plain distillation."""
    meters = Meters()

    def step(images, labels):
        with autocast(amp, images.device):
            logits = student(images)
            with torch.no_grad():
                teacher_logits = teacher(images)
        loss = GAMMA * F.cross_entropy(logits.float(), labels)
        loss = loss + ALPHA * softened_kl(logits, teacher_logits, TEMPERATURE)
        top1, top5 = accuracy(logits, labels)
        meters.add(loss=loss.item(), top1=top1.item(), top5=top5.item())
        update(optimizer, loss)
        return meters.last

    return step


def softened_kl(logits, target, temperature):
    """KL divergence of the softened outputs (N, K) · tau^2, averaged over the batch (0-d)."""
    log_p = F.log_softmax(logits.float() / temperature, dim=1)
    q = F.softmax(target.float() / temperature, dim=1)
    return F.kl_div(log_p, q, reduction="sum") * temperature**2 / len(logits)


def accuracy(logits, labels):
    """Returns top-1 and top-5 (at most top-K of K classes) in percent, as 0-d tensors."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices  # (N, 5)
    hits = ranked.eq(labels[:, None])
    return 100 * hits[:, 0].float().mean(), 100 * hits.any(dim=1).float().mean()


class Meters:
    """Running sums of numbers on the host, as both references keep them."""

    def __init__(self):
        self.sums, self.count, self.last = {}, 0, {}

    def add(self, **values):
        """Adds the numbers of one step."""
        self.last = values
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


# Measurement


def step_operations(pair, batch_size, size):
    """Returns the floating-point operations of a step: the forward passes of teacher and student,
    and the student's backward pass, which costs two forward passes.
    """
    images = torch.empty(batch_size, 3, size, size, device="meta")
    teacher, student = (create_model(name, pair.classes) for name in (pair.teacher, pair.student))
    return forward_operations(teacher.eval(), images) + 3 * forward_operations(student, images)


def make_matmul(device, amp, size=None):
    """Returns (function that multiplies two square matrices once, its floating-point operations).

    float32 at the current matmul precision, or bf16. size: rows (default: 2048; on a GPU 8192).
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    dtype = torch.bfloat16 if amp == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return lambda: torch.matmul(a, b), 2 * size**3


def repeated(function, count):
    """Returns a function that calls `function` `count` times."""
    return lambda: [function() for _ in range(count)]


def main(argv=None):
    """Measures the pairs of `argv` and prints the table."""
    options = parse_option(argv)
    device = timing.start(options)
    on_gpu = device.type == "cuda"
    torch.set_float32_matmul_precision("high")
    rows = []
    for pair in (PAIRS[name] for name in options.pairs):
        size, batch_size = pair.size, pair.gpu_batch if on_gpu else pair.cpu_batch
        steps_per_run, matmul_size = options.steps or (20 if on_gpu else 1), None
        if options.quick:
            size, batch_size, steps_per_run, matmul_size = min(size, 64), 2, 1, 256
        batch_size = options.batch_size or batch_size

        # Time the steps and the matrix product in turn
        matmul, matmul_operations = make_matmul(device, options.amp, matmul_size)
        functions = make_steps(pair, batch_size, size, device, options.amp) | {MATMUL: matmul}
        runs = {name: repeated(step, steps_per_run) for name, step in functions.items()}
        times = timing.alternate(runs, options.repeats, warmup=2)

        # One row per step
        time_ratios, matmul_ratios = timing.ratios(times, OURS), timing.ratios(times, MATMUL)
        matmuls_per_step = step_operations(pair, batch_size, size) / matmul_operations
        for name in (OURS, DMKD, REPDISTILLER):
            seconds = timing.spread([value / steps_per_run for value in times[name]])
            rows.append(
                [
                    f"{pair.teacher} → {pair.student}, {size}×{size}, batch {batch_size}",
                    name,
                    f"{seconds:.4f}",
                    f"{batch_size / seconds.median:.1f}",
                    "–" if name == OURS else f"{time_ratios[name]:.2f}",
                    f"{100 * matmuls_per_step / matmul_ratios[name].median:.0f} %",
                ]
            )
    header = "pair|step|seconds per step|images/s|its time over ours|share of the matmul rate"
    print(timing.markdown(header.split("|"), rows))
    print(
        f"\nMedian (lowest–highest) of {options.repeats} rounds; "
        f"{'bf16' if options.amp == 'bf16' else 'float32'}."
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
