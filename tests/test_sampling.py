"""The samplers against the official formulas (reference_dit.py); noise, guidance, rounding."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_dit import CHAINS, guided, official_names, time_features

from dataset.image_writer import to_pixels
from diffusion.pipeline import Denoiser, load_pipeline, use_official_embedding
from diffusion.sampler import (
    SAMPLERS,
    Sampler,
    batch_noise,
    check_steps,
    ddpm_step,
    guide,
    prefetch,
)
from helper.cost import forward_operations
from helper.errors import UserError

SHAPE = (4, 8, 8)
ITEMS = [(0, 0), (2, 0), (1, 5)]
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}


def plain_transformer(folder, official=True):
    """The transformer of a pipeline folder as diffusers loads it."""
    from diffusers import DiTTransformer2DModel

    transformer = DiTTransformer2DModel.from_pretrained(
        folder, subfolder="transformer", low_cpu_mem_usage=False
    ).eval()
    if official:
        use_official_embedding(transformer)
    return transformer.requires_grad_(False)


@pytest.fixture(scope="module")
def shared_folder(tiny_pipeline, tmp_path_factory):
    """The tiny pipeline with the first block's embedder in every block, as official weights have
    it.
    """
    folder = Path(shutil.copytree(tiny_pipeline, tmp_path_factory.mktemp("shared") / "tiny"))
    transformer = plain_transformer(folder)
    first, *others = [block.norm1.emb for block in transformer.transformer_blocks]
    for other in others:
        other.load_state_dict(first.state_dict())
    transformer.save_pretrained(folder / "transformer")
    return folder


@pytest.fixture(scope="module")
def pipeline(shared_folder):
    return load_pipeline(shared_folder, "official")


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("scale", [1, 3])
def test_chain_follows_the_official_formulas(shared_folder, pipeline, name, scale):
    sampler = Sampler(name, 10, SCHEDULE)
    noise = batch_noise(7, ITEMS, SHAPE, sampler.noise_steps)
    labels = torch.tensor([label for label, _ in ITEMS])
    ours = sampler.sample(pipeline.predict, noise, labels, 3, scale, cfg_channels=3)
    weights = official_names(plain_transformer(shared_folder))
    expected = CHAINS[name](guided(weights, 2, labels, scale), noise, steps=10)
    assert ((ours - expected).norm() / expected.norm()).item() < 1e-4
    other = CHAINS[name](guided(weights, 2, labels.flip(0), scale), noise, steps=10)
    assert (
        (ours - other).norm() / expected.norm()
    ).item() > 1e-2  # the class matters: the test can fail


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_embedding_once_a_pass_is_exact(tiny_pipeline, shared_folder, precision):
    """To the bit what diffusers computes, whether the blocks hold one embedder or, trained
    otherwise, several.
    """
    torch.manual_seed(0)
    x, t, labels = (
        torch.randn(5, *SHAPE),
        torch.tensor([0, 3, 500, 500, 999]),
        torch.tensor([3, 0, 1, 2, 3]),
    )
    products = {}
    for folder in (shared_folder, tiny_pipeline):
        denoiser = Denoiser(plain_transformer(folder))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            expected = plain_transformer(folder)(x, timestep=t, class_labels=labels).sample
            assert torch.equal(denoiser(x, t, labels), expected)
        products[folder] = forward_operations(denoiser, x, t, labels)
    embedding = (
        2 * 5 * (256 * 24 + 24 * 24)
    )  # FLOP of the time's two layers; computed for two blocks and the output
    assert products[tiny_pipeline] - products[shared_folder] == 2 * embedding


def test_time_embedding_frequencies(tiny_pipeline, pipeline):
    t = torch.tensor([1, 37, 999])
    official = pipeline.denoiser.embedder.time_proj(t)
    torch.testing.assert_close(
        official.double(), torch.stack([time_features(int(step)) for step in t]), atol=1e-4, rtol=0
    )
    blocks = [
        load_pipeline(tiny_pipeline, kind).denoiser.transformer.transformer_blocks[1]
        for kind in ("official", "diffusers")
    ]
    assert [block.norm3.eps for block in blocks] == [1e-6, 1e-5]
    as_built = blocks[1].norm1.emb.time_proj(t)
    angles = t.double()[:, None] * 10000 ** (-torch.arange(128, dtype=torch.float64) / 127)
    torch.testing.assert_close(
        as_built.double(), torch.cat([angles.cos(), angles.sin()], 1), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("steps", [4, 25, 1000])
def test_ddpm_step_is_that_of_diffusers(monkeypatch, steps):
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    scheduler = DDPMScheduler(
        variance_type="learned_range", timestep_spacing="linspace", clip_sample=False
    )
    scheduler.set_timesteps(steps)
    torch.manual_seed(0)
    output, x, noise = torch.randn(2, 8, 8, 8), torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: noise)
    for t in scheduler.timesteps[:: max(1, steps // 5)].tolist() + [0]:
        expected = scheduler.step(output, t, x).prev_sample
        ours = ddpm_step(scheduler, output, torch.tensor(t), x, noise if t > 0 else None)
        torch.testing.assert_close(ours, expected, rtol=2e-5, atol=2e-5)


def test_dpmsolver_is_that_of_diffusers_on_the_guided_noise(pipeline):
    from diffusers import DPMSolverMultistepScheduler

    sampler = Sampler("dpmsolver++", 6, SCHEDULE)
    noise = batch_noise(7, ITEMS, SHAPE, sampler.noise_steps)
    labels = torch.tensor([label for label, _ in ITEMS])
    scheduler = DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(6)
    x = noise[0]
    for t in scheduler.timesteps:
        conditional, null = (
            pipeline.predict(x, t.expand(3), y)[:, :4] for y in (labels, torch.full_like(labels, 3))
        )
        x = scheduler.step(null + 2 * (conditional - null), t, x).prev_sample
    for _ in range(2):  # a second batch starts without the first one's history
        ours = sampler.sample(pipeline.predict, noise, labels, 3, 2.0, cfg_channels=4)
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def label_network(calls):
    """A network whose every output is the label; it notes the batch sizes."""

    def network(x, t, labels):
        calls.append(len(x))
        assert len(x) == len(t) == len(labels)
        return labels.float()[:, None, None, None].expand(-1, 8, 8, 8)

    return network


def test_guidance_leaves_other_channels_and_the_variance_to_the_conditional_branch():
    conditional, null = (torch.full((1, 8, 8, 8), value) for value in (1.0, 10.0))
    guided = guide(conditional, null, 2.0, 3)
    assert guided[0, :, 0, 0].tolist() == [-8.0] * 3 + [1.0] * 5


@pytest.mark.parametrize("name", SAMPLERS)
def test_both_branches_are_one_pass(name):
    sampler, calls = Sampler(name, 5, SCHEDULE), []
    noise = batch_noise(0, ITEMS, SHAPE, sampler.noise_steps)
    sampler.sample(label_network(calls), noise, torch.tensor([0, 2, 1]), 3, 2.0, 3)
    assert calls == [6] * 5


@pytest.mark.parametrize("name", SAMPLERS)
def test_without_guidance_no_null_branch_is_computed(name):
    sampler, calls = Sampler(name, 5, SCHEDULE), []
    noise = batch_noise(0, ITEMS, SHAPE, sampler.noise_steps)
    sampler.sample(label_network(calls), noise, torch.tensor([0, 2, 1]), 3, 1.0, 3)
    assert calls == [3] * 5


@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_in_an_interval_computes_the_null_branch_there_only(name):
    sampler, calls = Sampler(name, 10, SCHEDULE, interval=(0.2, 0.6)), []
    timesteps = sampler.scheduler.timesteps.tolist()
    expected = [6 if 200 <= t <= 600 else 3 for t in timesteps]
    assert {3, 6} == set(expected)
    noise = batch_noise(0, ITEMS, SHAPE, sampler.noise_steps)
    sampler.sample(label_network(calls), noise, torch.tensor([0, 2, 1]), 3, 2.0, 3)
    assert calls == expected
    assert sampler.evaluations(2.0) == sum(expected) // 3 and sampler.evaluations(1.0) == 10


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("scale", [1, 3])
def test_whole_interval_is_guidance_throughout(pipeline, name, scale):
    labels = torch.tensor([label for label, _ in ITEMS])
    results = []
    for interval in ((0.0, 1.0), (0.999, 1.0)):
        sampler = Sampler(name, 4, SCHEDULE, interval=interval)
        noise = batch_noise(7, ITEMS, SHAPE, sampler.noise_steps)
        results.append(sampler.sample(pipeline.predict, noise, labels, 3, scale, 4))
    plain = Sampler(name, 4, SCHEDULE)
    assert torch.equal(results[0], plain.sample(pipeline.predict, noise, labels, 3, scale, 4))
    assert torch.equal(*results) == (scale == 1)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [2, 3, 5, 8, 12, 25])
def test_trailing_timesteps_lead_from_noise_to_the_image(name, steps):
    """A network that knows the image: all samplers arrive there."""
    sampler = Sampler(name, steps, SCHEDULE, spacing="trailing")
    assert sampler.scheduler.timesteps[0] == 999 and len(sampler.scheduler.timesteps) == steps
    image = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))

    def network(x, t, labels):
        abar = sampler.scheduler.alphas_cumprod[int(t[0])]
        return torch.cat([(x - abar.sqrt() * image) / (1 - abar).sqrt(), torch.zeros_like(x)], 1)

    noise = batch_noise(0, ITEMS[:1], SHAPE, sampler.noise_steps)
    result = sampler.sample(network, noise, torch.tensor([0]), 3, 1.0, 3)
    assert (result - image).abs().max() < 0.02


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_step_reads_a_value_from_the_device(name):
    """Tensors on the meta device have no values: whatever waited for one would raise."""
    sampler = Sampler(name, 5, SCHEDULE)
    noise = torch.empty(1 + sampler.noise_steps, 2, *SHAPE, device="meta")
    labels = torch.empty(2, dtype=torch.int64, device="meta")

    def network(x, t, labels):
        assert t.device.type == "meta"
        return torch.cat([x, x], dim=1)

    assert sampler.sample(network, noise, labels, 3, 2.0, 3).shape == (2, *SHAPE)


def test_noise_belongs_to_the_image():
    together = batch_noise(3, ITEMS, SHAPE, 4)
    assert together.shape == (5, 3, *SHAPE)
    for column, item in enumerate(ITEMS):
        assert torch.equal(together[:, column], batch_noise(3, [item], SHAPE, 4)[:, 0])
        state = int(np.random.SeedSequence([3, *item]).generate_state(1, np.uint64)[0]) >> 1
        generator = torch.Generator().manual_seed(state)
        expected = [torch.randn(SHAPE, generator=generator) for _ in range(5)]
        assert torch.equal(together[:, column], torch.stack(expected))
    assert torch.equal(batch_noise(3, ITEMS, SHAPE, 0)[0], together[0])
    assert not torch.equal(batch_noise(4, ITEMS, SHAPE, 0), together[:1])
    assert abs(together.mean()) < 0.1 and abs(together.std() - 1) < 0.1


def test_pixels_are_rounded_half_up_and_clamped():
    values = torch.tensor([-3.0, -1.0, 0.0, 2 * 100.49 / 255 - 1, 2 * 100.51 / 255 - 1, 1.0, 3.0])
    images = values.view(1, 1, 1, 7).expand(1, 3, 1, 7)
    assert to_pixels(images)[0, 0, :, 1].tolist() == [0, 0, 128, 100, 101, 255, 255]
    # Grey is the mean of the channels before rounding: 10.4, 10.4 and 11.4 are 10.73, not a mean of
    # 10, 10 and 11.
    channels = 2 * torch.tensor([10.4, 10.4, 11.4]).view(1, 3, 1, 1) / 255 - 1
    assert to_pixels(channels, grey=True).tolist() == [[[11]]]


def test_more_steps_than_the_schedule_has_are_refused():
    check_steps("ddpm", 1000, SCHEDULE)
    for name, steps in [("ddpm", 1001), ("ddim", 1001), ("dpmsolver++", 1000)]:
        with pytest.raises(UserError, match="num-sampling-steps"):
            check_steps(name, steps, SCHEDULE)


def test_prefetch_computes_one_value_ahead():
    computed = []

    def values():
        for value in range(4):
            computed.append(value)
            yield value

    taken = []
    for value in prefetch(values()):
        taken.append(value)
        assert len(computed) <= value + 2
    assert taken == [0, 1, 2, 3]

    def failing():
        yield 0
        raise ValueError("second value")

    with pytest.raises(ValueError, match="second value"):
        list(prefetch(failing()))
