"""Benchmarks: they run, take turns, pair the runs of a round, and compare the same work. No test
measures time.
"""

import re

import numpy as np
import pytest
import torch

from benchmarks import distill_step, end_to_end, inversion_step, sampler, timing
from helper.errors import UserError

CPU = torch.device("cpu")


def read_table(text):
    """Returns (header, rows) of the only Markdown table in `text`, as lists of cells."""
    lines = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]
    header, rule, *rows = [[cell.strip() for cell in line] for line in lines]
    assert set("".join(rule)) == {"-"}
    assert rows and all(len(row) == len(header) for row in rows)
    return header, rows


def numbers(cell):
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", cell)]


# Timing


def test_functions_take_turns_and_warm_up_untimed():
    calls = []
    times = timing.alternate(
        {name: lambda name=name: calls.append(name) for name in "ABC"}, repeats=3, warmup=2
    )
    assert "".join(calls) == "ABC" * 5
    assert {name: len(values) for name, values in times.items()} == {"A": 3, "B": 3, "C": 3}


def test_ratios_pair_the_runs_of_a_round():
    # In the second round the machine was ten times slower, for both.
    ratios = timing.ratios({"one": [1.0, 10.0, 1.0], "other": [2.0, 20.0, 3.0]}, "one")
    assert ratios["other"] == (2.0, 2.0, 3.0)
    assert ratios["one"] == (1.0, 1.0, 1.0)
    assert f"{ratios['other']:.2f}" == "2.00 (2.00–3.00)"


# The distillation step


def test_distill_step_prints_a_table(capsys):
    distill_step.main(["--quick", "--device", "cpu", "--pairs", "wrn_16_1"])
    text = capsys.readouterr().out
    assert f"torch {torch.__version__}" in text
    header, rows = read_table(text)
    assert [row[1] for row in rows] == [
        distill_step.OURS,
        distill_step.DMKD,
        distill_step.REPDISTILLER,
    ]
    assert rows[0][4] == "–"
    for row in rows:
        median, low, high = numbers(row[2])
        assert 0 < low <= median <= high
        # images/s is that of the median; both are rounded.
        assert numbers(row[3])[0] == pytest.approx(2 / median, rel=0.05)
        assert numbers(row[5])[0] > 0


@pytest.mark.parametrize("amp, tolerance", [("off", 1e-4), ("bf16", 0.05)])
def test_steps_compute_the_same_losses(amp, tolerance):
    """The losses of steps two and three agree only if gradients and updates do."""
    pair = distill_step.Pair("resnet14", "resnet8", 10, 32, 4, 4)
    steps = distill_step.make_steps(pair, 4, 32, CPU, amp)
    for _ in range(3):
        ours = float(steps[distill_step.OURS]()["loss"])
        assert ours > 1e-3
        for name in (distill_step.DMKD, distill_step.REPDISTILLER):
            assert steps[name]()["loss"] == pytest.approx(ours, rel=tolerance), name


def test_step_operations_are_the_published_ones():
    """WRN-40-2 takes 0.328 GMAC per image and WRN-16-2 0.101, of two operations each; the student
    counts three times.
    """
    operations = distill_step.step_operations(distill_step.PAIRS["wrn_16_2"], batch_size=4, size=32)
    assert operations / 4 == pytest.approx(2e9 * (0.328 + 3 * 0.101), rel=0.01)


def test_unknown_pair_is_refused():
    with pytest.raises(UserError, match="--pairs resnet9 .*wrn_16_2"):
        distill_step.main(["--pairs", "resnet9"])


def test_dmkd_differentiates_its_teacher_and_keeps_its_weights():
    """As the released loop does: gradients of the teacher's weights, which nobody uses."""
    torch.manual_seed(0)
    student, teacher = (distill_step.create_model("resnet8", 5) for _ in range(2))
    before = [value.clone() for value in teacher.state_dict().values()]
    optimizer = distill_step.make_optimizer("sgd", student.parameters(), **distill_step.SGD)
    step = distill_step.dmkd_step(student, teacher.eval(), optimizer, "off")
    step(torch.rand(4, 3, 32, 32), torch.arange(4))
    assert all(parameter.grad is not None for parameter in teacher.parameters())
    assert any(parameter.grad.abs().max() > 0 for parameter in teacher.parameters())
    assert all(map(torch.equal, before, teacher.state_dict().values()))


# Whole commands


def test_inversion_step_prints_a_table(capsys):
    inversion_step.main(["--quick", "--device", "cpu", "--teachers", "resnet20"])
    _, rows = read_table(capsys.readouterr().out)
    assert [row[1] for row in rows] == [inversion_step.OURS, inversion_step.PUBLISHED]
    for row in rows:
        median, low, high = numbers(row[2])
        assert 0 < low <= median <= high
    with pytest.raises(UserError, match="resnet99"):
        inversion_step.main(["--teachers", "resnet20,resnet99"])


@pytest.mark.parametrize("amp, tolerance", [("off", 1e-4), ("bf16", 0.02)])
def test_inversion_steps_compute_the_same(amp, tolerance):
    steps = inversion_step.make_steps("resnet14", 10, 32, 4, CPU, amp)
    (loss, grad), (their_loss, their_grad) = (step() for step in steps.values())
    assert loss.item() == pytest.approx(their_loss.item(), rel=tolerance)
    assert (grad - their_grad).norm() < tolerance * their_grad.norm()
    assert their_grad.norm() > 0


def test_end_to_end_prints_a_table(capsys):
    end_to_end.main(["--quick", "--device", "cpu", "--pairs", "wrn_16_2", "--epochs", "1"])
    _, rows = read_table(capsys.readouterr().out)
    assert [row[1] for row in rows] == ["in memory, off", "fp32", "bf16"]
    for row in rows:
        median, low, high = numbers(row[2])
        assert 0 < low <= median <= high and numbers(row[3])[0] >= 0


def test_end_to_end_refuses_an_unknown_pair():
    with pytest.raises(UserError, match="--pairs resnet9"):
        end_to_end.main(["--pairs", "resnet9"])


# The sampler


def test_sampler_prints_a_table(capsys):
    sampler.main(["--quick", "--device", "cpu", "--sampler", "ddpm"])
    header, rows = read_table(capsys.readouterr().out)
    assert [row[:2] for row in rows] == [
        [size, name] for size in "12" for name in (sampler.OURS, sampler.DIFFUSERS)
    ]
    for row in rows:
        median, low, high = numbers(row[2])
        assert 0 < low <= median <= high
        shares = [float(cell.removesuffix(" %")) for cell in row[4:]]
        assert sum(shares) == pytest.approx(100, abs=0.2)
        assert min(shares[:2]) > 0


def test_sampler_in_bf16(capsys):
    sampler.main(["--quick", "--device", "cpu", "--precision", "bf16"])
    text = capsys.readouterr().out
    assert len(read_table(text)[1]) == 4 and "bf16" in text


def test_samplers_generate_the_same_images():
    ours, theirs = sampler.load_both("DiT-S/8", 64, "small", "ddim", CPU, layers=2)
    functions = sampler.samplers(ours, theirs, sampler.Sampler("ddim", 4, ours.schedule), 3)
    pictures = functions[sampler.OURS]()
    others = np.stack([np.asarray(picture) for picture in functions[sampler.DIFFUSERS]()])
    assert pictures.shape == others.shape == (3, 64, 64, 3)
    difference = np.abs(pictures.astype(int) - others.astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() <= 1e-3
    assert (
        pictures.std() > 5 and np.abs(pictures[0].astype(int) - pictures[1].astype(int)).mean() > 1
    )

    parts = sampler.parts(ours, theirs, 4, 3)
    torch.testing.assert_close(
        parts[sampler.OURS, sampler.DECODER](),
        parts[sampler.DIFFUSERS, sampler.DECODER](),
        rtol=1e-4,
        atol=1e-4,
    )


def test_empty_batch_is_refused():
    with pytest.raises(UserError, match="--batches"):
        sampler.main(["--batches", "0,4"])
