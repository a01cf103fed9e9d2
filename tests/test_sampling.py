"""The samplers against the official formulas, written here a second time; noise, guidance, rounding."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helper.diffusion import Sampler, batch_noise, check_steps, ddpm_step, guided_output, to_pixels
from helper.errors import UserError
from models.dit import load_pipeline

SHAPE = (4, 8, 8)
ITEMS = [(0, 0), (2, 0), (1, 5)]
SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline):
    return load_pipeline(tiny_pipeline, "official")


def official_time_features(t):
    """cos and sin of t · 10000^(−i/128), i = 0…127: float64 (256,)."""
    angles = t * torch.tensor([10000 ** (-i / 128) for i in range(128)], dtype=torch.float64)
    return torch.cat([angles.cos(), angles.sin()])


def reference_dit(transformer, x, t, labels):
    """DiT's forward pass from its weights (arXiv 2212.09748, adaLN-Zero), in float64. x: (N, 4, 8, 8), patch 2."""
    weights = {name: value.double() for name, value in transformer.state_dict().items()}

    def linear(name, value):
        return F.linear(value, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(value):
        return (value - value.mean(-1, keepdim=True)) / (value.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    def heads(value):
        return value.unflatten(-1, (transformer.config.num_attention_heads, -1)).transpose(1, 2)

    h = F.conv2d(x, weights["pos_embed.proj.weight"], weights["pos_embed.proj.bias"], stride=2)
    h = h.flatten(2).transpose(1, 2) + transformer.pos_embed.pos_embed.double()  # (N, 16, width)
    for number in range(transformer.config.num_layers):
        block = f"transformer_blocks.{number}"
        emb = f"{block}.norm1.emb"
        condition = linear(f"{emb}.timestep_embedder.linear_1", official_time_features(t))
        condition = linear(f"{emb}.timestep_embedder.linear_2", F.silu(condition))
        condition = condition + weights[f"{emb}.class_embedder.embedding_table.weight"][labels]
        parts = linear(f"{block}.norm1.linear", F.silu(condition))[:, None].chunk(6, dim=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        a = norm(h) * (1 + scale_a) + shift_a
        q, k, v = (heads(linear(f"{block}.attn1.to_{name}", a)) for name in "qkv")
        a = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1) @ v
        h = h + gate_a * linear(f"{block}.attn1.to_out.0", a.transpose(1, 2).flatten(2))
        m = F.gelu(linear(f"{block}.ff.net.0.proj", norm(h) * (1 + scale_m) + shift_m), approximate="tanh")
        h = h + gate_m * linear(f"{block}.ff.net.2", m)
        if number == 0:
            final_condition = condition  # the official code has one embedder; diffusers keeps the first block's
    shift, scale = linear("proj_out_1", F.silu(final_condition))[:, None].chunk(2, dim=-1)
    h = linear("proj_out_2", norm(h) * (1 + scale) + shift)  # (N, 16, 2·2·8)
    h = h.unflatten(1, (4, 4)).unflatten(-1, (2, 2, 8))  # (N, row, column, y, x, channel)
    return h.permute(0, 5, 1, 3, 2, 4).reshape(len(x), 8, 8, 8)


def reference_model(transformer, x, t, labels, scale):
    """Guidance on the first three channels; the other five are the conditional branch's."""
    conditional = reference_dit(transformer, x, t, labels)
    null = reference_dit(transformer, x, t, torch.full_like(labels, 3))
    conditional[:, :3] = null[:, :3] + scale * (conditional[:, :3] - null[:, :3])
    return conditional


def respaced(used):
    """Returns (used timesteps ascending, ᾱ, β) of the chain that takes only these steps, in float64."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[used]
    return abar, 1 - abar / np.append(1.0, abar[:-1])


def reference_ddpm(transformer, noise, labels, scale, steps):
    used = np.round(np.linspace(0, 999, steps)).astype(int)
    _, betas = respaced(used)
    alphas = 1 - betas
    abar = np.cumprod(alphas)
    abar_before = np.append(1.0, abar[:-1])
    variance = betas * (1 - abar_before) / (1 - abar)
    clipped_log_variance = np.log(np.append(variance[1], variance[1:]))
    x = noise[0].double()
    for number, i in enumerate(reversed(range(steps))):
        eps, v = reference_model(transformer, x, int(used[i]), labels, scale).chunk(2, dim=1)
        x0 = np.sqrt(1 / abar[i]) * x - np.sqrt(1 / abar[i] - 1) * eps
        mean = (betas[i] * np.sqrt(abar_before[i]) / (1 - abar[i]) * x0
                + (1 - abar_before[i]) * np.sqrt(alphas[i]) / (1 - abar[i]) * x)  # fmt: skip
        fraction = (v + 1) / 2
        log_variance = fraction * np.log(betas[i]) + (1 - fraction) * clipped_log_variance[i]
        x = mean + (torch.exp(0.5 * log_variance) * noise[number + 1].double() if i > 0 else 0)
    return x


def reference_ddim(transformer, noise, labels, scale, steps):
    used = np.arange(0, 1000, 1000 // steps)
    abar, _ = respaced(used)
    abar_before = np.append(1.0, abar[:-1])
    x = noise[0].double()
    for i in reversed(range(steps)):
        eps = reference_model(transformer, x, int(used[i]), labels, scale)[:, :4]
        x0 = (x - np.sqrt(1 - abar[i]) * eps) / np.sqrt(abar[i])
        x = np.sqrt(abar_before[i]) * x0 + np.sqrt(1 - abar_before[i]) * eps
    return x


@pytest.mark.parametrize(("name", "reference"), [("ddpm", reference_ddpm), ("ddim", reference_ddim)])
@pytest.mark.parametrize("scale", [1, 3])
def test_chain_follows_the_official_formulas(pipeline, name, reference, scale):
    sampler = Sampler(name, 10, SCHEDULE)
    noise = batch_noise(7, ITEMS, SHAPE, sampler.noise_steps)
    labels = torch.tensor([label for label, _ in ITEMS])
    ours = sampler.sample(pipeline.predict, noise, labels, 3, scale, cfg_channels=3)
    expected = reference(pipeline.transformer, noise, labels, scale, steps=10)
    assert ((ours - expected).norm() / expected.norm()).item() < 1e-4
    other = reference(pipeline.transformer, noise, labels.flip(0), scale, steps=10)
    assert ((ours - other).norm() / expected.norm()).item() > 1e-2  # the class matters: the test can fail


def test_time_embedding_frequencies(tiny_pipeline, pipeline):
    t = torch.tensor([1, 37, 999])
    block = pipeline.transformer.transformer_blocks[1]
    official = block.norm1.emb.time_proj(t)
    torch.testing.assert_close(
        official.double(), torch.stack([official_time_features(int(step)) for step in t]), atol=1e-4, rtol=0
    )
    built = load_pipeline(tiny_pipeline, "diffusers").transformer.transformer_blocks[1]
    assert (block.norm3.eps, built.norm3.eps) == (1e-6, 1e-5)
    as_built = built.norm1.emb.time_proj(t)
    angles = t.double()[:, None] * 10000 ** (-torch.arange(128, dtype=torch.float64) / 127)
    torch.testing.assert_close(as_built.double(), torch.cat([angles.cos(), angles.sin()], 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("steps", [4, 25, 1000])
def test_ddpm_step_is_that_of_diffusers(monkeypatch, steps):
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    scheduler = DDPMScheduler(variance_type="learned_range", timestep_spacing="linspace", clip_sample=False)
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
    scheduler = DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, timestep_spacing="linspace")
    scheduler.set_timesteps(6)
    x = noise[0]
    for t in scheduler.timesteps:
        conditional, null = (pipeline.predict(x, t.expand(3), y)[:, :4] for y in (labels, torch.full_like(labels, 3)))
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
    x, labels, calls = torch.zeros(2, *SHAPE), torch.tensor([1, 2]), []
    output = guided_output(label_network(calls), x, torch.tensor(5), labels, torch.tensor([10, 10]), 2.0, 3)
    assert calls == [4]
    assert output[:, :, 0, 0].tolist() == [[-8.0] * 3 + [1.0] * 5, [-6.0] * 3 + [2.0] * 5]


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmsolver++"])
def test_without_guidance_no_null_branch_is_computed(name):
    sampler, calls = Sampler(name, 5, SCHEDULE), []
    noise = batch_noise(0, ITEMS, SHAPE, sampler.noise_steps)
    sampler.sample(label_network(calls), noise, torch.tensor([0, 2, 1]), 3, 1.0, 3)
    assert calls == [3] * 5


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmsolver++"])
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
    # Grey is the mean of the channels before rounding: 10.4, 10.4 and 11.4 are 10.73, not a mean of 10, 10 and 11.
    channels = 2 * torch.tensor([10.4, 10.4, 11.4]).view(1, 3, 1, 1) / 255 - 1
    assert to_pixels(channels, grey=True).tolist() == [[[11]]]


def test_more_steps_than_the_schedule_has_are_refused():
    check_steps("ddpm", 1000, SCHEDULE)
    for name, steps in [("ddpm", 1001), ("ddim", 1001), ("dpmsolver++", 1000)]:
        with pytest.raises(UserError, match="num-sampling-steps"):
            check_steps(name, steps, SCHEDULE)
