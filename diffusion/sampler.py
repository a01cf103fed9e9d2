"""Sampling a class-conditional DiT (arXiv 2212.09748): per-image noise, guidance and the three
samplers.

Every picture is a function of (weights, sampler, guidance scale, steps, seed, class, index): its
noise comes from a generator of its own, drawn on the CPU ahead of the steps, so that no step waits
for the host. Shapes: N images a batch, latents (N, C, H, W); the network answers (N, 2C, H, W), C
channels of predicted noise and C that say where the variance lies between its bounds.
"""

import numpy as np
import torch

from helper.errors import UserError
from helper.seeds import image_generator

SAMPLERS = ("ddpm", "ddim", "dpmsolver++")
SCHEDULE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


def batch_noise(seed, items, shape, noise_steps, pin_memory=False):
    """Draws the noise of a batch, image by image: first the starting latent, then one tensor a
    step, in order.

    items: (class, index) pairs, N of them; shape: (C, H, W); noise_steps: how many steps add noise.
    Returns float32 (1 + noise_steps, N, C, H, W) on the CPU, page-locked if `pin_memory`.
    """
    noise = torch.empty(1 + noise_steps, len(items), *shape, pin_memory=pin_memory)
    for column, (class_index, image_index) in enumerate(items):
        generator = image_generator(seed, class_index, image_index)
        for row in range(1 + noise_steps):
            torch.randn(shape, generator=generator, out=noise[row, column])
    return noise


def guided_output(network, x, t, labels, null_labels, scale, cfg_channels):
    """Classifier-free guidance, eps = eps_null + s (eps_class − eps_null), on the first
    `cfg_channels` channels.

    The other noise channels and the variance come from the conditional branch. At scale 1 only that
    branch is run. network(x, t, labels) → (N, 2C, H, W); x: (N, C, H, W); t: timestep on x's
    device; labels, null_labels: (N,). Returns (N, 2C, H, W) in float32.
    """
    if scale == 1:
        return network(x, t.expand(len(x)), labels).float()
    both = network(
        torch.cat([x, x]), t.expand(2 * len(x)), torch.cat([labels, null_labels])
    ).float()  # (2N, 2C, H, W)
    conditional, null = both.chunk(2)
    guided = null[:, :cfg_channels] + scale * (
        conditional[:, :cfg_channels] - null[:, :cfg_channels]
    )
    return torch.cat([guided, conditional[:, cfg_channels:]], dim=1)


def ddpm_step(scheduler, output, t, x, noise):
    """One ancestral step of a respaced chain with learned variance (arXiv 2006.11239 eq. 6–7,
    2102.09672 eq. 15).

    scheduler: diffusers' DDPMScheduler, for its table ᾱ and its order of timesteps; output: (N, 2C,
    H, W); t: CPU timestep; x, noise: (N, C, H, W), noise None for the last step, which adds none.
    Latents are not clipped. Returns the latents of the previous timestep, (N, C, H, W).
    """
    previous = scheduler.previous_timestep(t)
    abar = scheduler.alphas_cumprod[t].item()
    abar_previous = scheduler.alphas_cumprod[previous].item() if previous >= 0 else 1.0
    alpha = abar / abar_previous
    beta = 1 - alpha  # of the respaced chain: several training steps in one
    eps, fraction = output.chunk(2, dim=1)  # 2 × (N, C, H, W)
    x0 = (x - (1 - abar) ** 0.5 * eps) / abar**0.5
    mean = (abar_previous**0.5 * beta * x0 + alpha**0.5 * (1 - abar_previous) * x) / (1 - abar)
    if noise is None:
        return mean
    # The network places log σ² between the posterior's log variance (−1) and log β (+1).
    log_low = float(np.log(beta * (1 - abar_previous) / (1 - abar)))
    log_high = float(np.log(beta))
    log_variance = log_low + (fraction + 1) / 2 * (log_high - log_low)
    return mean + torch.exp(0.5 * log_variance) * noise


def check_steps(name, steps, schedule):
    """Raises UserError if the sampler cannot take that many different steps of the training
    schedule.
    """
    # DPM-Solver++ places its steps between one more point than it takes.
    most = schedule["num_train_timesteps"] - (name == "dpmsolver++")
    if steps > most:
        raise UserError(
            f"--num-sampling-steps {steps} is above {most}, the most that {name} can take with "
            "this model"
        )


class Sampler:
    """A chain of `steps` steps with the ancestral DDPM sampler, DDIM (η = 0) or DPM-Solver++ (order
    2).

    schedule: num_train_timesteps and the betas, as in a pipeline's scheduler_config.json.
    `noise_steps` is how many noise tensors an image needs beside its starting latent.
    """

    def __init__(self, name, steps, schedule):
        from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

        check_steps(name, steps, schedule)
        self.name, self.steps = name, steps
        betas = {key: schedule[key] for key in SCHEDULE_KEYS if key in schedule}
        if name == "ddpm":
            self.scheduler = DDPMScheduler(
                **betas,
                variance_type="learned_range",
                timestep_spacing="linspace",
                clip_sample=False,
            )
        elif name == "ddim":
            self.scheduler = DDIMScheduler(
                **betas, timestep_spacing="leading", steps_offset=0, clip_sample=False
            )
        else:
            self.scheduler = DPMSolverMultistepScheduler(
                **betas, solver_order=2, timestep_spacing="linspace", final_sigmas_type="zero"
            )
        self.noise_steps = steps - 1 if name == "ddpm" else 0

    @torch.no_grad()
    def sample(self, network, noise, labels, null_label, scale, cfg_channels, on_step=lambda: None):
        """Runs the chain and returns the final latents, float32 (N, C, H, W).

        network(x, t, labels) → (N, 2C, H, W); noise: (1 + noise_steps, N, C, H, W) from
        `batch_noise`, on the device; labels: (N,) int64; null_label: the class index of the null
        branch; on_step() is called after each step.
        """
        self.scheduler.set_timesteps(
            self.steps
        )  # on the CPU; also forgets the multistep history of the last batch
        on_device = self.scheduler.timesteps.to(noise.device)
        null_labels = torch.full_like(labels, null_label)
        x = noise[0]
        for number, t in enumerate(self.scheduler.timesteps):
            output = guided_output(
                network, x, on_device[number], labels, null_labels, scale, cfg_channels
            )
            if self.name == "ddpm":
                x = ddpm_step(
                    self.scheduler,
                    output,
                    t,
                    x,
                    noise[number + 1] if number < self.noise_steps else None,
                )
            else:
                # Given the variance channels too, diffusers' solvers would take them for latent
                # channels.
                x = self.scheduler.step(output[:, : x.shape[1]], t, x, return_dict=False)[0]
            on_step()
        return x
