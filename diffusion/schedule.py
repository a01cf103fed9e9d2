"""The noise schedule of the DiT models: 1000 timesteps, β linear from 0.0001 to 0.02."""

import torch

# The settings of diffusers' schedulers; what a pipeline's scheduler_config.json lacks
DEFAULT_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
}


def linear_betas(schedule=DEFAULT_SCHEDULE):
    """β_t of a linear schedule, (num_train_timesteps,) in float64."""
    start, end, steps = (schedule[key] for key in ("beta_start", "beta_end", "num_train_timesteps"))
    return torch.linspace(start, end, steps, dtype=torch.float64)
