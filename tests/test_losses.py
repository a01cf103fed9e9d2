"""The distillation loss against its formula, mixing of images, schedules and step seeds."""

import math

import numpy as np
import pytest
import torch

from helper import losses
from helper.optim import Schedule
from helper.seeds import seed_step


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def random_logits(count=6, classes=11, scale=5.0, seed=0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(count, classes)), scale * rng.normal(size=(count, classes))


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0, 10.0, 20.0])
def test_kd_loss_equals_the_formula(tau):
    student, teacher = random_logits()
    p, q = softmax(teacher / tau), softmax(student / tau)
    expected = (p * np.log(p / q)).sum(axis=1).mean() * tau**2
    loss = losses.kd_loss(torch.tensor(student), torch.tensor(teacher), tau)
    assert loss.shape == () and loss.dtype == torch.float32
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_gradient_is_the_difference_of_the_softmaxes(tau):
    student, teacher = random_logits(seed=1)
    logits = torch.tensor(student, requires_grad=True)
    losses.kd_loss(logits, torch.tensor(teacher), tau).backward()
    expected = tau * (softmax(student / tau) - softmax(teacher / tau)) / len(student)
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-4, atol=1e-7)


def test_kd_loss_properties():
    student, teacher = (
        torch.tensor(logits, dtype=torch.float32) for logits in random_logits(seed=2)
    )
    assert float(losses.kd_loss(teacher, teacher, 4)) == pytest.approx(0, abs=1e-6)
    forward, backward = losses.kd_loss(student, teacher, 1), losses.kd_loss(teacher, student, 1)
    assert forward > 0 and abs(forward - backward) > 0.1  # the divergence is not symmetric
    torch.testing.assert_close(
        losses.kd_loss(student + 7, teacher - 3, 4), losses.kd_loss(student, teacher, 4)
    )
    doubled = losses.kd_loss(student.repeat(2, 1), teacher.repeat(2, 1), 4)
    # The mean over the batch
    torch.testing.assert_close(doubled, losses.kd_loss(student, teacher, 4))
    extreme = torch.tensor([[1e4, -1e4, 0.0]])
    assert torch.isfinite(losses.kd_loss(-extreme, extreme, 1))
    # Half precision is converted before the softmax: only the logits are rounded.
    half = losses.kd_loss(student.bfloat16(), teacher.bfloat16(), 4)
    assert half == losses.kd_loss(student.bfloat16().float(), teacher.bfloat16().float(), 4)


def flat_images(count=16, size=32):
    """Every pixel of image i is i + 1."""
    return torch.arange(1.0, count + 1).view(-1, 1, 1, 1).expand(count, 3, size, size).clone()


def mixed_by(name, images, concentration=None):
    draw, mix = losses.mixing(name, concentration)
    return mix(images, *draw(images))


def test_mixup_has_one_weight_per_batch():
    images, weights = flat_images(), []
    for seed in range(200):
        torch.manual_seed(seed)
        mixed = mixed_by("mixup", images)
        torch.manual_seed(seed)
        assert torch.equal(mixed, mixed_by("mixup", images))  # a function of the seed
        values = mixed[:, 0, 0, 0]
        assert torch.equal(mixed, values.view(-1, 1, 1, 1).expand_as(mixed))
        # Partners are a permutation
        assert values.sum() == pytest.approx(float(images[:, 0, 0, 0].sum()), rel=1e-5)
        # Solve λ·(i + 1) + (1 − λ)·partner for the partners
        torch.manual_seed(seed)
        weight = torch.distributions.Beta(0.4, 0.4).sample().item()
        partners = (values - weight * images[:, 0, 0, 0]) / (1 - weight) if weight < 0.99 else None
        if partners is not None:
            assert sorted(partners.round().int().tolist()) == list(range(1, 17))
            torch.testing.assert_close(partners, partners.round(), atol=0.02, rtol=0)
        weights.append(weight)
    assert np.mean(weights) == pytest.approx(0.5, abs=0.1)
    # Beta(0.4, 0.4) has most of its mass near 0 and 1
    assert np.mean([not 0.1 < weight < 0.9 for weight in weights]) > 0.35


def test_cutmix_pastes_one_box_from_partners():
    images, areas = flat_images(), []
    for seed in range(200):
        torch.manual_seed(seed)
        mixed = mixed_by("cutmix", images)
        changed = mixed != images
        assert (changed[:, :1] == changed).all()  # all channels alike
        area = changed[:, 0].any(0)  # of any image whose partner is not itself
        rows, columns = area.any(1).nonzero().flatten(), area.any(0).nonzero().flatten()
        if len(rows):
            box = mixed[:, 0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert area.sum() == box[0].numel()  # the same rectangle in all images
            assert (box == box[:, :1, :1]).all()
            assert sorted(box[:, 0, 0].tolist()) == list(range(1, 17))  # partners: a permutation
        areas.append(float(area.float().mean()))
    assert torch.equal(images, flat_images())  # the input is not modified
    assert 0.2 < np.mean(areas) < 0.5  # mean 1/2 before clipping at the borders
    assert min(areas) < 0.02 and max(areas) > 0.9


def test_area_of_the_cutmix_box_is_1_minus_the_weight(monkeypatch):
    images = flat_images(size=64)
    monkeypatch.setattr(losses.torch, "rand", lambda *_: torch.tensor([0.5, 0.5]))
    for weight in (0.0, 0.25, 0.75, 1.0):
        beta = type(
            "Beta", (), {"__init__": lambda *_: None, "sample": lambda _, w=weight: torch.tensor(w)}
        )
        monkeypatch.setattr(losses.torch.distributions, "Beta", beta)
        _, box = losses.draw_cutmix(images)
        assert float(box.float().mean()) == pytest.approx(1 - weight, abs=0.03)


def test_no_mixing():
    images = flat_images(4, 8)
    assert mixed_by("none", images) is images


def test_mixing_with_another_beta():
    """λ is near 0.5 for large c and near 0 or 1 for small c."""
    images = flat_images()
    areas = {}
    for concentration in (0.01, 1000.0):
        fractions = []
        for seed in range(60):
            torch.manual_seed(seed)
            mixed = mixed_by("cutmix", images, concentration)
            fractions.append(float((mixed != images)[:, 0].any(0).float().mean()))
        areas[concentration] = fractions
    assert all(0.1 < area < 0.55 for area in areas[1000.0])
    assert np.mean([area < 0.02 or area > 0.9 for area in areas[0.01]]) > 0.5


def test_kd_loss_without_tau_squared():
    student, teacher = (torch.tensor(logits) for logits in random_logits(seed=3))
    scaled, plain = (
        losses.kd_loss(student, teacher, 8),
        losses.kd_loss(student, teacher, 8, scaled=False),
    )
    assert float(scaled) == pytest.approx(64 * float(plain), rel=1e-6)


def test_step_schedule_drops_after_its_milestones():
    rate = Schedule("step", 0.1, epochs=100, decay_epochs=(30, 60, 90), decay_rate=0.1)
    # Epochs count from 1: the thirtieth (29 are finished) is the last at the full rate.
    for finished, expected in (
        (0, 0.1),
        (29, 0.1),
        (29.99, 0.1),
        (30, 0.01),
        (59.9, 0.01),
        (60, 0.001),
        (90, 0.0001),
    ):
        assert rate(finished) == pytest.approx(expected)


def test_cosine_schedule_and_warm_up():
    rate = Schedule("cosine", 0.1, epochs=100, warmup_epochs=10, min_lr=0.001)
    rates = [rate(finished) for finished in (0, 5, 10, 100)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.001])
    assert rate(55) == pytest.approx((0.1 + 0.001) / 2)
    assert rate(32.5) == pytest.approx(0.001 + 0.099 * (1 + math.cos(math.pi / 4)) / 2)
    rates = [rate(finished) for finished in np.linspace(10, 100, 50)]
    assert rates == sorted(rates, reverse=True)


def test_step_seeds_differ():
    states = set()
    for key in [
        (s, e, i, r) for s in range(3) for e in range(4) for i in range(8) for r in range(2)
    ]:
        seed_step(*key)
        states.add(torch.rand(4, dtype=torch.float64).numpy().tobytes())
    assert len(states) == 3 * 4 * 8 * 2
    seed_step(1, 2, 3, 1)
    first = torch.rand(4)
    seed_step(1, 2, 3, 1)
    assert torch.equal(first, torch.rand(4))


def probabilities(logits, temperature):
    exponentials = np.exp(np.asarray(logits, np.float64) / temperature)
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature, alpha, beta", [(1, 1, 1), (4, 1, 8), (2, 0.5, 0), (4, 0, 2)])
def test_dkd_is_its_formula(temperature, alpha, beta):
    student, teacher = (np.array(logits) for logits in random_logits(seed=5))
    targets = np.arange(len(student)) % student.shape[1]
    total = 0.0
    for s, t, target in zip(
        probabilities(student, temperature), probabilities(teacher, temperature), targets
    ):
        binary = [np.array([p[target], 1 - p[target]]) for p in (s, t)]
        others = [np.delete(p, target) / (1 - p[target]) for p in (s, t)]
        for weight, (ours, theirs) in ((alpha, binary), (beta, others)):
            total += weight * (theirs * np.log(theirs / ours)).sum()
    expected = temperature**2 * total / len(targets)
    arguments = torch.tensor(student), torch.tensor(teacher), torch.from_numpy(targets)
    assert losses.dkd_loss(*arguments, temperature, alpha, beta).item() == pytest.approx(
        expected, rel=1e-4
    )


def test_dkd_with_the_weights_of_kd_is_kd():
    """arXiv 2203.08679, eq. 6: KD = TCKD + (1 − p_target of the teacher) NCKD."""
    student, teacher = (torch.tensor(logits) for logits in random_logits(seed=6))
    for row in range(len(student)):
        one = student[row : row + 1], teacher[row : row + 1]
        target = torch.tensor([row % student.shape[1]])
        weight = 1 - torch.softmax(one[1] / 4, dim=1)[0, target].item()
        torch.testing.assert_close(
            losses.dkd_loss(*one, target, 4, 1, weight),
            losses.kd_loss(*one, 4),
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize("temperature, beta, gamma", [(1, 1, 1), (4, 2, 2), (2, 1, 0), (2, 0, 1)])
def test_dist_is_its_formula(temperature, beta, gamma):
    student, teacher = (np.array(logits) for logits in random_logits(seed=7))
    s, t = probabilities(student, temperature), probabilities(teacher, temperature)
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s, t)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T)])
    expected = temperature**2 * (beta * inter + gamma * intra)
    result = losses.dist_loss(
        torch.tensor(student), torch.tensor(teacher), temperature, beta, gamma
    )
    assert result.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_standardized_logits_do_not_depend_on_scale_and_shift():
    _, teacher = (torch.tensor(logits) for logits in random_logits(seed=8))
    result = losses.standardize(teacher)
    np.testing.assert_allclose(result.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(result.numpy(), axis=1, ddof=1), 1, rtol=1e-5)
    torch.testing.assert_close(losses.standardize(5 * teacher - 3), result, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(losses.standardize(torch.ones(2, 5))).all()


@pytest.mark.parametrize("name", ["dkd", "dist"])
def test_extreme_logits_give_finite_losses_and_gradients(name):
    student = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4, 0.0, 0.0]])
    if name == "dkd":
        loss = losses.dkd_loss(student, teacher, teacher.argmax(1), 1)
    else:
        loss = losses.dist_loss(student, teacher, 1)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()
