"""datafree/: terms, BatchNorm matching and views against float64 formulas; the methods' steps."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from datafree import Stopped, dafl, dfq, fastdfkd, terms, views
from datafree.batchnorm import BatchNormMatch, channel_statistics, evaluating
from helper.distributed import World
from helper.errors import UserError

CLASSES, SIZE, COUNT = 4, 8, 6
WORLD = World(0, 1, torch.device("cpu"))


def network(seed, norm=True):
    """A classifier of images (N, 3, 8, 8) whose BatchNorm statistics are not 0 and 1."""
    torch.manual_seed(seed)
    norms = [nn.BatchNorm2d(8) if norm else nn.Identity() for _ in range(2)]
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        norms[0],
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        norms[1],
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )
    with torch.no_grad():
        net[-1].weight.mul_(8)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture
def teacher():
    return network(1).requires_grad_(False)


@pytest.fixture
def student():
    return network(2)


def build(module, kind, teacher, **settings):
    torch.manual_seed(3)
    settings = module.Settings(**{"z_dim": 12, **settings})
    return kind(teacher, CLASSES, SIZE, False, settings, WORLD)


def logits_pair():
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (COUNT, CLASSES)), rng.normal(0, 3, (COUNT, CLASSES))


def log_softmax(x):
    return x - np.log(np.exp(x).sum(1, keepdims=True))


# Terms


def test_class_and_certainty():
    t, _ = logits_pair()
    labels = np.array([0, 1, 2, 3, 0, 1])
    rows, as_tensor = np.arange(COUNT), torch.tensor(t).float()
    expected = -log_softmax(t)[rows, labels].mean()
    assert terms.class_loss(as_tensor, torch.tensor(labels)).item() == pytest.approx(
        expected, rel=1e-5
    )
    assert terms.certainty_loss(as_tensor).item() == pytest.approx(
        -log_softmax(t).max(1).mean(), rel=1e-5
    )


def test_activation_and_balance():
    t, features = logits_pair()
    assert terms.activation_loss(torch.tensor(features)).item() == pytest.approx(
        -np.abs(features).mean(), rel=1e-5
    )
    mean = np.exp(log_softmax(t)).mean(0)
    assert terms.balance_loss(torch.tensor(t)).item() == pytest.approx(
        (mean * np.log(mean)).sum(), rel=1e-5
    )
    certain = torch.tensor([[1e4, 0.0], [1e4, 0.0]], requires_grad=True)  # p̄ = (1, 0): 0 log 0 is 0
    terms.balance_loss(certain).backward()
    assert terms.balance_loss(certain).item() == 0 and certain.grad.isfinite().all()


def test_divergences_and_jensen_shannon():
    t, s = logits_pair()
    as_tensors = torch.tensor(t), torch.tensor(s)
    log_t, log_s = log_softmax(t), log_softmax(s)
    assert terms.divergences(*as_tensors).numpy() == pytest.approx(
        (np.exp(log_t) * (log_t - log_s)).sum(1), rel=1e-4
    )
    p, q = (np.exp(log_softmax(x / 3)) for x in (t, s))
    m = (p + q) / 2
    expected = 0.5 * ((p * np.log(p / m)).sum(1) + (q * np.log(q / m)).sum(1)).mean()
    assert terms.jensen_shannon(*as_tensors, temperature=3.0).item() == pytest.approx(
        expected, rel=1e-4
    )
    far = torch.tensor([[300.0, 0.0]]), torch.tensor([[0.0, 300.0]])
    assert terms.jensen_shannon(*far, temperature=3.0).item() == pytest.approx(np.log(2), rel=1e-5)


def test_total_variation_and_norm():
    x = np.random.default_rng(1).normal(size=(2, 3, 5, 4))
    differences = [
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    ]
    expected = sum(np.sqrt((d**2).sum()) for d in differences)
    assert terms.total_variation(torch.tensor(x)).item() == pytest.approx(expected, rel=1e-5)
    norms = np.sqrt((x**2).sum((1, 2, 3)))
    assert terms.image_norm(torch.tensor(x)).item() == pytest.approx(norms.mean(), rel=1e-5)


# BatchNorm matching


def statistics(x):
    x = x.double().numpy()
    return x.mean((0, 2, 3)), x.var((0, 2, 3))


def distance(layer, mean, variance):
    return np.linalg.norm(layer.running_mean.double().numpy() - mean) + np.linalg.norm(
        layer.running_var.double().numpy() - variance
    )


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 6), (4, 3, 6, 7)])
@pytest.mark.parametrize("dtype, far", [(torch.float32, 1000.0), (torch.bfloat16, 4.0)])
def test_channel_statistics_are_those_of_torch(shape, dtype, far):
    """Also far from zero, where the mean of squares less the squared mean would be inexact."""
    torch.manual_seed(0)
    x = (torch.randn(shape) + far).to(dtype)
    axes = [axis for axis in range(x.dim()) if axis != 1]
    exact = x.double().requires_grad_()
    wanted = exact.mean(axes), exact.var(axes, unbiased=False)
    for form in (x, x.transpose(1, -1).contiguous().transpose(1, -1)):  # also channels last
        form = form.detach().requires_grad_()
        found = channel_statistics(form)
        weights = torch.randn(2, 3, dtype=torch.float64)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one.double(), other.detach(), rtol=1e-4, atol=0)
        (gradient,) = torch.autograd.grad(sum((w * f).sum() for w, f in zip(weights, found)), form)
        (expected,) = torch.autograd.grad(
            sum((w * f).sum() for w, f in zip(weights, wanted)), exact, retain_graph=True
        )
        assert (gradient.dtype, gradient.stride()) == (dtype, form.stride())
        error = (gradient.double() - expected).norm() / expected.norm()
        assert error < (1e-3 if dtype is torch.float32 else 5e-3)


def test_batch_norm_match(teacher):
    images = torch.rand(COUNT, 3, SIZE, SIZE)
    first, second = teacher[1], teacher[4]
    inputs = teacher[0](images), teacher[3](teacher[2](first(teacher[0](images))))
    expected = [distance(layer, *statistics(x)) for layer, x in zip((first, second), inputs)]
    match = BatchNormMatch(teacher)
    with match:
        teacher(images)
        assert [d.item() for d in match.distances()] == pytest.approx(expected, rel=1e-5)
        assert match.loss().item() == pytest.approx(sum(expected), rel=1e-5)
        assert match.loss(first_weight=10).item() == pytest.approx(
            10 * expected[0] + expected[1], rel=1e-5
        )
    with pytest.raises(RuntimeError, match="0 of 2"):
        match.distances()
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_batch_norm_match_smooths_with_earlier_rounds(teacher):
    batches = [torch.rand(COUNT, 3, SIZE, SIZE) * scale for scale in (1, 2, 3)]
    seen = [statistics(teacher[0](batch)) for batch in batches]
    match = BatchNormMatch(teacher, momentum=0.75)
    average = None
    for batch, (mean, variance) in zip(batches, seen):
        with match:
            teacher(batch)
            now = [mean, variance]
            if average is not None:
                now = [0.25 * new + 0.75 * old for new, old in zip(now, average)]
            assert match.distances()[0].item() == pytest.approx(
                distance(teacher[1], *now), rel=1e-4
            )
            match.remember()
        average = now
    other = BatchNormMatch(teacher, momentum=0.75)
    other.load_state_dict(match.state_dict())
    with other:
        teacher(batches[0])
        expected = [0.25 * n + 0.75 * a for n, a in zip(seen[0], average)]
        assert other.distances()[0].item() == pytest.approx(
            distance(teacher[1], *expected), rel=1e-4
        )


def test_hooks_are_removed_after_an_exception(teacher):
    with pytest.raises(ValueError), BatchNormMatch(teacher):
        raise ValueError
    assert not any(module._forward_pre_hooks for module in teacher.modules())


@pytest.mark.parametrize("method", ["dfq", "fastdfkd"])
def test_a_teacher_without_batch_norm_is_refused(method):
    module, kind = {"dfq": (dfq, dfq.DFQ), "fastdfkd": (fastdfkd, fastdfkd.FastDFKD)}[method]
    with pytest.raises(UserError, match="no BatchNorm layer"):
        build(module, kind, network(1, norm=False))
    assert build(dafl, dafl.DAFL, network(1, norm=False))  # needs none


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_restores_the_mode(student, training):
    student.train(training)
    with pytest.raises(ValueError), evaluating(student):
        assert not student.training
        raise ValueError
    assert student.training is training


# Views


def test_resample_at_whole_coordinates_reads_pixels_and_zeros_outside():
    images = torch.rand(2, 3, 5, 5)
    rows, columns = torch.tensor([[-1.0, 0, 4], [3, 2, 1]]), torch.tensor([[1.0, 2, 5], [0, 0, 4]])
    seen = views.resample(images, rows, columns)
    assert torch.equal(seen[0, :, 1:, :2], images[0][:, [0, 4]][:, :, [1, 2]])
    assert not seen[0, :, 0].any() and not seen[0, :, :, 2].any()
    assert torch.equal(seen[1], images[1][:, [3, 2, 1]][:, :, [0, 0, 4]])
    between = views.resample(
        images, torch.tensor([[1.25]]).expand(2, 1), torch.tensor([[2.0]]).expand(2, 1)
    )
    assert torch.allclose(between[..., 0, 0], 0.75 * images[:, :, 1, 2] + 0.25 * images[:, :, 2, 2])


def test_crop_and_flip_are_crops_of_the_padded_image_and_its_mirror():
    torch.manual_seed(0)
    images = torch.rand(40, 3, SIZE, SIZE)
    crops = views.crop_and_flip(images, 1)
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    found = set()
    for image, view in zip(padded, crops):
        matches = {
            (top, left, flip)
            for top in range(3)
            for left in range(3)
            for flip in (False, True)
            if torch.equal(
                view, (image.flip(2) if flip else image)[:, top : top + SIZE, left : left + SIZE]
            )
        }
        assert len(matches) == 1
        found |= matches
    assert {flip for *_, flip in found} == {True, False} and len(found) > 10


def test_resized_crops_stay_inside_and_have_their_area():
    torch.manual_seed(0)
    size = 16
    ramp = torch.arange(size).float()  # a view then holds the coordinates it was read from
    images = torch.stack([ramp[:, None].expand(size, size), ramp.expand(size, size)]).expand(
        200, 2, size, size
    )
    seen = views.resized_crop(images, (0.75, 1.0))
    assert seen.shape == images.shape and seen.min() >= 0 and seen.max() <= size - 1
    # The border is repeated: measure the step between two pixels in the middle.
    sides = [
        (seen[:, axis].narrow(axis + 1, 9, 1) - seen[:, axis].narrow(axis + 1, 8, 1)).flatten(1)[
            :, 0
        ]
        for axis in (0, 1)
    ]
    area = sides[0] * sides[1]
    assert sides[0].max() <= 1 + 1e-5 and sides[1].max() <= 1 + 1e-5
    # A side that is cut makes the area smaller than 0.75.
    assert area.min() > 0.62 and area.max() <= 1 + 1e-5 and area.std() > 0.02
    whole = views.resized_crop(images[:1], (1.0, 1.0))
    assert whole.isfinite().all()


# The methods' objectives


def numpy_terms(teacher, student, images):
    """Terms of a batch in float64, from the logits of both."""
    with torch.no_grad():
        t, s = (net(images).double().numpy() for net in (teacher, student))
        inputs = teacher[0](images), teacher[3](teacher[2](teacher[1](teacher[0](images))))
        features = teacher[:-1](images).double().numpy()
    log_t, log_s = log_softmax(t), log_softmax(s)
    mean = np.exp(log_t).mean(0)
    return {
        "certainty": -log_t.max(1).mean(),
        "balance": (mean * np.log(mean)).sum(),
        "activation": -np.abs(features).mean(),
        "statistics": sum(
            distance(layer, *statistics(x)) for layer, x in zip((teacher[1], teacher[4]), inputs)
        ),
        "kl": (np.exp(log_t) * (log_t - log_s)).sum(1),
        "agreed": t.argmax(1) == s.argmax(1),
        "log_t": log_t,
    }


def test_dafl_objective(teacher, student):
    method = build(dafl, dafl.DAFL, teacher, oh=2.0, act=0.5, balance=3.0)
    images = torch.rand(COUNT, 3, SIZE, SIZE)
    reference = numpy_terms(teacher, student, images)
    expected = {
        "class": 2 * reference["certainty"],
        "activation": 0.5 * reference["activation"],
        "balance": 3 * reference["balance"],
    }
    assert {k: v.item() for k, v in method.losses(images, student).items()} == pytest.approx(
        expected, rel=1e-4
    )


def test_dfq_objective(teacher, student):
    method = build(dfq, dfq.DFQ, teacher, oh=2.0, balance=3.0, bn=0.5, adv=4.0)
    images = torch.rand(COUNT, 3, SIZE, SIZE)
    reference = numpy_terms(teacher, student, images)
    expected = {
        "class": 2 * reference["certainty"],
        "balance": 3 * reference["balance"],
        "statistics": 0.5 * reference["statistics"],
        "adversarial": -4 * reference["kl"].mean(),
    }
    assert {k: v.item() for k, v in method.losses(images, student).items()} == pytest.approx(
        expected, rel=1e-4
    )


def test_fastdfkd_objective(teacher, student, monkeypatch):
    monkeypatch.setattr(views, "crop_and_flip", lambda images, padding: images)
    method = build(fastdfkd, fastdfkd.FastDFKD, teacher, oh=2.0, bn=0.5, adv=4.0, warmup_rounds=2)
    # Of several classes for both networks
    images = torch.rand(40, 3, SIZE, SIZE) + torch.rand(40, 3, 1, 1) * 4 - 2
    labels = torch.arange(40) % CLASSES
    reference = numpy_terms(teacher, student, images)
    assert 0 < reference["agreed"].sum() < 40  # else the mask is not tested
    expected = {
        "class": -2 * reference["log_t"][np.arange(40), labels.numpy()].mean(),
        "statistics": 0.5 * reference["statistics"],
    }
    with method.match:
        assert {
            k: v.item() for k, v in method.losses(images, labels, student).items()
        } == pytest.approx(expected, 1e-4)
        method.rounds = 1  # the second round, the last of the warm-up
        expected["adversarial"] = -4 * (reference["kl"] * reference["agreed"]).sum() / 40
        assert {
            k: v.item() for k, v in method.losses(images, labels, student).items()
        } == pytest.approx(expected, 1e-4)


def adversarial_gradient(teacher, student):
    method = build(dfq, dfq.DFQ, teacher)
    loss = method.losses(method.generator(torch.randn(COUNT, 12)), student)["adversarial"]
    gradients = torch.autograd.grad(loss, list(method.generator.parameters()))
    return max(gradient.abs().max().item() for gradient in gradients)


def test_dfq_uses_the_divergence_from_the_student(teacher, student):
    assert adversarial_gradient(teacher, student) > 1e-3
    assert adversarial_gradient(teacher, teacher) < 1e-6


# The methods' steps


@pytest.mark.parametrize("module, kind", [(dafl, dafl.DAFL), (dfq, dfq.DFQ)], ids=["dafl", "dfq"])
def test_a_generator_step_lowers_its_objective_on_a_fixed_batch(module, kind, teacher, student):
    method = build(module, kind, teacher, lr_g=1e-3)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    student.train()

    def step():
        torch.manual_seed(4)  # the same noise
        return sum(method.update(student, 32).values()).item()

    first = step()
    assert method.loss.item() == pytest.approx(first, rel=1e-5)
    assert step() < first
    # The student is unchanged: weights, statistics, gradients, mode.
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert student.training and all(parameter.grad is None for parameter in student.parameters())


def test_images_follow_from_the_state(teacher, student):
    one = build(dfq, dfq.DFQ, teacher)
    one.update(student, 8)
    other = build(dfq, dfq.DFQ, teacher)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for method in (one, other):
        torch.manual_seed(9)
        method.update(student, 8)
        method.kept = method.images(5)
    assert one.kept.shape == (5, 3, SIZE, SIZE) and not one.kept.requires_grad
    assert torch.equal(one.kept, other.kept) and torch.equal(one.loss, other.loss)


def fast(teacher, **settings):
    return build(
        fastdfkd,
        fastdfkd.FastDFKD,
        teacher,
        **{"batch": 16, "k": 3, "warmup_rounds": 0, **settings},
    )


def rounds(method, student, count, first=0):
    for number in range(first, first + count):
        torch.manual_seed(100 + number)
        images, labels = method.synthesize(student)
    return images, labels


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "meta": "reptile",
            "z_rounds": 2,
            "lr_g_meta": 1e-3,
            "lr_z_meta": 5e-3,
            "keep": "last",
            "view": "resized",
        },
    ],
    ids=["cifar", "imagenet"],
)
def test_a_round_is_a_function_of_seed_and_state(teacher, student, settings):
    student.train()
    straight = fast(teacher, **settings)
    expected, labels = rounds(straight, student, 4)
    assert (
        expected.shape == (16, 3, SIZE, SIZE)
        and labels.shape == (16,)
        and not expected.requires_grad
    )
    assert (
        expected.min() >= 0 and expected.max() <= 1 and set(labels.tolist()) <= set(range(CLASSES))
    )
    assert student.training and straight.rounds == 4
    first, second = fast(teacher, **settings), fast(teacher, **settings)
    rounds(first, student, 3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    images, again = rounds(second, student, 1, first=3)
    assert torch.equal(images, expected) and torch.equal(again, labels)
    for name, value in straight.generator.state_dict().items():
        assert torch.equal(second.generator.state_dict()[name], value)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_images_of_the_lowest_total_loss_are_kept(teacher, student, monkeypatch, keep):
    # Learning rates so large that the loss oscillates
    method = fast(teacher, k=8, lr_g=0.3, lr_z=0.3, keep=keep)
    real, steps = method.losses, []

    def losses(images, labels, student):
        values = real(images, labels, student)
        steps.append((sum(values.values()).item(), images.detach().clone()))
        return values

    monkeypatch.setattr(method, "losses", losses)
    images, _ = rounds(method, student, 1)
    lowest = min(range(8), key=lambda step: steps[step][0])
    assert lowest not in (0, 7)
    assert torch.equal(images, steps[lowest if keep == "best" else 7][1])


def test_steps_lower_the_objective_on_a_fixed_view(teacher, student, monkeypatch):
    monkeypatch.setattr(views, "crop_and_flip", lambda images, padding: images)

    def loss_after(k):
        method = fast(teacher, adv=0.0, k=k, lr_g=1e-3)
        images, labels = rounds(method, student, 1)
        method.match.average = None  # as in the round
        with method.match, torch.no_grad():
            return sum(method.losses(images, labels, student).values()).item()

    assert loss_after(k=12) < loss_after(k=2) < loss_after(k=1)


def test_maml_takes_adams_step_on_the_sum_of_the_gradients(teacher, student):
    """Adam's first step moves each weight by its rate, against the sign of the summed gradient."""
    method = fast(teacher, k=2, lr_g=1e-4)
    before = [parameter.detach().clone() for parameter in method.generator.parameters()]
    rounds(method, student, 1)
    moved = torch.cat(
        [(after - start).flatten() for after, start in zip(method.generator.parameters(), before)]
    )
    assert moved.abs().max().item() == pytest.approx(2 * 1e-4, rel=1e-2)
    assert moved.abs().median().item() == pytest.approx(2 * 1e-4, rel=0.1)


def test_reptile_moves_towards_the_copy(teacher, student):
    """With k = 1 the direction is that of the copy's step: both go against the same gradient."""
    directions = {}
    for meta in ("maml", "reptile"):
        method = fast(teacher, k=1, meta=meta, lr_g=1e-3, lr_g_meta=1e-4)
        before = [parameter.detach().clone() for parameter in method.generator.parameters()]
        rounds(method, student, 1)
        directions[meta] = torch.cat(
            [
                (after - start).flatten().sign()
                for after, start in zip(method.generator.parameters(), before)
            ]
        )
    assert (directions["maml"] == directions["reptile"]).float().mean() > 0.99


def test_reptile_gradient_is_scaled_as_published(teacher, student):
    """Adam divides by the root of the squared gradient plus eps: the scale shows where eps counts.

    A first step moves by lr · g / (|g| + eps), with g = 67 · (start − end).
    """
    method = fast(teacher, k=1, meta="reptile", lr_g=1e-9, lr_g_meta=1.0)
    before = [parameter.detach().clone() for parameter in method.generator.parameters()]
    rounds(method, student, 1)
    moved = torch.cat(
        [
            (start - after).abs().flatten()
            for after, start in zip(method.generator.parameters(), before)
        ]
    )
    # Float32 weights of about 0.1 do not resolve 1e-9; those that start at zero do
    zero = torch.cat([start.flatten() for start in before]) == 0
    moves = moved[zero & (moved > 0)]
    assert len(moves) > 0
    assert moves.median().item() == pytest.approx(67e-9 / (67e-9 + 1e-8), rel=0.02)


def test_noise_is_kept_for_z_rounds(teacher, student):
    method = fast(teacher, z_rounds=2)
    rounds(method, student, 1)
    first = method.noise.clone()
    rounds(method, student, 1, first=1)
    second = method.noise.clone()
    rounds(method, student, 1, first=2)
    # A step of Adam is at most lr_z · k = 0.03; a new draw differs by more.
    assert 0 < (second - first).abs().max() < 0.1 < (method.noise - second).abs().max()
    assert "noise" not in fast(teacher).state_dict()


def test_first_layer_is_reset_at_its_round(teacher, student):
    with_reset, without = fast(teacher, reset_round=2), fast(teacher, reset_round=0)
    for method in (with_reset, without):
        rounds(method, student, 1)
    assert torch.equal(with_reset.generator.first.weight, without.generator.first.weight)
    rounds(with_reset, student, 1, first=1)
    assert with_reset.generator.first_norm.weight.abs().max() < 0.2  # 1 before


def test_a_stopped_round_is_discarded(teacher, student):
    method, calls = fast(teacher), []
    before = {name: value.clone() for name, value in method.generator.state_dict().items()}
    student.train()

    def should_stop():
        calls.append(1)
        return len(calls) == 2

    with pytest.raises(Stopped):
        method.synthesize(student, should_stop)
    assert method.rounds == 0 and student.training and method.match.average is None
    assert all(
        torch.equal(value, before[name]) for name, value in method.generator.state_dict().items()
    )


def test_learning_rates_depend_on_k():
    assert fastdfkd.published_settings(2) == {"lr_g": 5e-3, "lr_z": 0.015}
    assert fastdfkd.published_settings(5) == {"lr_g": 3e-3, "lr_z": 0.01}
    assert (
        fastdfkd.published_settings(10)
        == fastdfkd.published_settings(50)
        == {"lr_g": 2e-3, "lr_z": 0.01}
    )
