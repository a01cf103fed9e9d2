"""Reference implementation of the official DiT and its samplers (arXiv 2212.09748, 2102.09672), in
float64.

x: (N, C, S, S); weights: {official name: tensor}.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F


def time_features(t):
    """cos and sin of t · 10000^(−i/128), i = 0…127: float64 (256,)."""
    angles = t * torch.tensor([10000 ** (-i / 128) for i in range(128)], dtype=torch.float64)
    return torch.cat([angles.cos(), angles.sin()])


def position_embedding(width, side):
    """Fixed embedding (1, side², width) of the column, then the row: sines, then cosines."""
    frequencies = [10000 ** (-4 * i / width) for i in range(width // 4)]

    def embed(position):
        angles = [position * frequency for frequency in frequencies]
        return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]

    return torch.tensor(
        [[embed(column) + embed(row) for row in range(side) for column in range(side)]],
        dtype=torch.float64,
    )


def official_dit(weights, heads, x, t, labels):
    """One pass at timestep t for labels (N,), (N, 2C, S, S). The last label is the null class."""

    def linear(name, value):
        return F.linear(value, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(value):
        return (value - value.mean(-1, keepdim=True)) / (
            value.var(-1, correction=0, keepdim=True) + 1e-6
        ).sqrt()

    patch = weights["x_embedder.proj.weight"].shape[-1]
    h = F.conv2d(
        x, weights["x_embedder.proj.weight"], weights["x_embedder.proj.bias"], stride=patch
    )
    side = h.shape[-1]
    h = h.flatten(2).transpose(1, 2) + weights["pos_embed"]  # (N, T, D)
    condition = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", time_features(t))))
    condition = F.silu(condition + weights["y_embedder.embedding_table.weight"][labels])[
        :, None
    ]  # (N, 1, D)
    for number in range(sum(name.endswith("attn.qkv.weight") for name in weights)):
        block = f"blocks.{number}"
        parts = linear(f"{block}.adaLN_modulation.1", condition).chunk(6, dim=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        qkv = linear(f"{block}.attn.qkv", norm(h) * (1 + scale_a) + shift_a)
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(
            2, 0, 3, 1, 4
        )  # each (N, heads, T, D / heads)
        a = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1) @ v
        h = h + gate_a * linear(f"{block}.attn.proj", a.transpose(1, 2).flatten(2))
        m = linear(f"{block}.mlp.fc1", norm(h) * (1 + scale_m) + shift_m)
        h = h + gate_m * linear(f"{block}.mlp.fc2", F.gelu(m, approximate="tanh"))
    shift, scale = linear("final_layer.adaLN_modulation.1", condition).chunk(2, dim=-1)
    h = linear("final_layer.linear", norm(h) * (1 + scale) + shift)  # (N, T, p · p · 2C)
    h = h.unflatten(1, (side, side)).unflatten(
        -1, (patch, patch, -1)
    )  # (N, row, column, y, x, channel)
    return h.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, side * patch, side * patch)


def official_names(transformer):
    """The weights of a diffusers DiT whose blocks share one embedder, under the official names."""
    weights = transformer.state_dict()
    embedder = "transformer_blocks.0.norm1.emb"
    state = {"pos_embed": transformer.pos_embed.pos_embed}
    renamed = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": f"{embedder}.timestep_embedder.linear_1",
        "t_embedder.mlp.2": f"{embedder}.timestep_embedder.linear_2",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    for number in range(transformer.config.num_layers):
        for ours, theirs in {
            "attn.proj": "attn1.to_out.0",
            "mlp.fc1": "ff.net.0.proj",
            "mlp.fc2": "ff.net.2",
            "adaLN_modulation.1": "norm1.linear",
        }.items():
            renamed[f"blocks.{number}.{ours}"] = f"transformer_blocks.{number}.{theirs}"
    for kind in ("weight", "bias"):
        state |= {f"{ours}.{kind}": weights[f"{theirs}.{kind}"] for ours, theirs in renamed.items()}
        for number in range(transformer.config.num_layers):
            parts = [
                weights[f"transformer_blocks.{number}.attn1.to_{part}.{kind}"] for part in "qkv"
            ]
            state[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat(parts)
    table = weights[f"{embedder}.class_embedder.embedding_table.weight"]
    return state | {"y_embedder.embedding_table.weight": table}


def guided(weights, heads, labels, scale):
    """The model with guidance of the first three channels, (x, t) → (N, 2C, S, S)."""
    weights = {name: value.double() for name, value in weights.items()}
    null = torch.full_like(labels, len(weights["y_embedder.embedding_table.weight"]) - 1)

    def model(x, t):
        output = official_dit(weights, heads, x, t, labels)
        if scale != 1:
            unconditional = official_dit(weights, heads, x, t, null)
            output[:, :3] = unconditional[:, :3] + scale * (output[:, :3] - unconditional[:, :3])
        return output

    return model


def _abar():
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def ddpm(model, noise, steps):
    """Ancestral sampling with learned variance; noise: (steps, N, C, S, S)."""
    used = np.round(np.linspace(0, 999, steps)).astype(int)
    betas = 1 - _abar()[used] / np.append(1.0, _abar()[used][:-1])
    alphas = 1 - betas
    abar = np.cumprod(alphas)
    abar_before = np.append(1.0, abar[:-1])
    variance = betas * (1 - abar_before) / (1 - abar)
    clipped_log_variance = np.log(np.append(variance[1], variance[1:]))
    x = noise[0].double()
    for number, i in enumerate(reversed(range(steps))):
        eps, v = model(x, int(used[i])).chunk(2, dim=1)
        x0 = np.sqrt(1 / abar[i]) * x - np.sqrt(1 / abar[i] - 1) * eps
        mean = (
            betas[i] * np.sqrt(abar_before[i]) / (1 - abar[i]) * x0
            + (1 - abar_before[i]) * np.sqrt(alphas[i]) / (1 - abar[i]) * x
        )
        fraction = (v + 1) / 2
        log_variance = fraction * np.log(betas[i]) + (1 - fraction) * clipped_log_variance[i]
        x = mean + (torch.exp(0.5 * log_variance) * noise[number + 1].double() if i > 0 else 0)
    return x


def ddim(model, noise, steps):
    """Deterministic sampling (η = 0), equally spaced timesteps; noise: (1, N, C, S, S)."""
    used = np.arange(0, 1000, 1000 // steps)
    abar = _abar()[used]
    abar_before = np.append(1.0, abar[:-1])
    x = noise[0].double()
    for i in reversed(range(steps)):
        eps = model(x, int(used[i])).chunk(2, dim=1)[0]
        x0 = (x - np.sqrt(1 - abar[i]) * eps) / np.sqrt(abar[i])
        x = np.sqrt(abar_before[i]) * x0 + np.sqrt(1 - abar_before[i]) * eps
    return x


CHAINS = {"ddpm": ddpm, "ddim": ddim}
