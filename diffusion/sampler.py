"""Sampling a class-conditional DiT (arXiv 2212.09748): noise, guidance and the three samplers.

An image is a function of (weights, sampler, guidance scale, steps, seed, class, index). Its noise
comes from its own generator on the CPU, and is drawn before the first step: no step waits for the
host.

Shapes: latents (N, C, H, W). The network returns (N, 2C, H, W): C channels of predicted noise, and
C that interpolate between the bounds of the variance.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from helper.errors import UserError
from helper.seeds import image_generator

# Spacing of the timesteps of each sampler
SAMPLERS = {"ddpm": "linspace", "ddim": "leading", "dpmsolver++": "linspace"}
SPACINGS = ("leading", "trailing")  # that can be chosen instead
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")  # of diffusers' schedulers
DDPM_BETA_SCHEDULES = (*BETA_SCHEDULES, "sigmoid", "laplace")
SCHEDULE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


def batch_noise(seed, items, shape, noise_steps, pin_memory=False):
    """Draws the noise of a batch: of each image first the starting latent, then one tensor per
    stochastic step.

    items: N pairs (class, index); shape: (C, H, W); noise_steps: number of stochastic steps.
    Returns float32 (1 + noise_steps, N, C, H, W) on the CPU, in pinned memory if `pin_memory`.
    """
    noise = torch.empty(1 + noise_steps, len(items), *shape, pin_memory=pin_memory)
    for column, (class_index, image_index) in enumerate(items):
        generator = image_generator(seed, class_index, image_index)
        for row in range(1 + noise_steps):
            torch.randn(shape, generator=generator, out=noise[row, column])
    return noise


def prefetch(values):
    """Yields the values of an iterator; a thread computes the next one meanwhile."""
    values = iter(values)
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(next, values, None)
        while (value := job.result()) is not None:
            job = thread.submit(next, values, None)
            yield value


def guide(conditional, null, scale, channels):
    """Classifier-free guidance (arXiv 2207.12598): eps = eps_null + s (eps_class − eps_null).

    It changes the first `channels` channels of the predicted noise. The other channels of
    `conditional`, (N, 2C, H, W), are returned as they are.
    """
    eps, eps_null = conditional[:, :channels], null[:, :channels]
    return torch.cat([eps_null + scale * (eps - eps_null), conditional[:, channels:]], dim=1)


def ddpm_step(scheduler, output, t, x, noise):
    """One ancestral step of a respaced chain with learned variance (arXiv 2006.11239, eq. 6–7;
    arXiv 2102.09672, eq. 15).

    scheduler: a diffusers DDPMScheduler, for its ᾱ and its timesteps; output: (N, 2C, H, W) of the
    network; t: timestep on the CPU; x: (N, C, H, W); noise: like x, None for the last step.
    Returns the latents of the previous timestep, which are not clipped.
    """
    previous = scheduler.previous_timestep(t)
    abar = scheduler.alphas_cumprod[t].item()
    abar_previous = scheduler.alphas_cumprod[previous].item() if previous >= 0 else 1.0
    alpha = abar / abar_previous  # of the respaced chain, whose step is several training steps
    beta = 1 - alpha
    eps, fraction = output.chunk(2, dim=1)  # 2 × (N, C, H, W)
    x0 = (x - (1 - abar) ** 0.5 * eps) / abar**0.5
    mean = (abar_previous**0.5 * beta * x0 + alpha**0.5 * (1 - abar_previous) * x) / (1 - abar)
    if noise is None:
        return mean
    # log σ² lies between the log variance of the posterior (fraction −1) and log β (fraction 1)
    log_low = float(np.log(beta * (1 - abar_previous) / (1 - abar)))
    log_high = float(np.log(beta))
    log_variance = log_low + (fraction + 1) / 2 * (log_high - log_low)
    return mean + torch.exp(0.5 * log_variance) * noise


def check_steps(name, steps, schedule, spacing=None):
    """Raises UserError if there is no such sampler, or it cannot take so many distinct steps of the
    training schedule, or does not know this schedule.

    spacing: as of Sampler.
    """
    if name not in SAMPLERS:
        raise UserError(f"sampler {name}: expected one of {', '.join(SAMPLERS)}")
    kind = schedule.get("beta_schedule", "linear")
    known = DDPM_BETA_SCHEDULES if name == "ddpm" else BETA_SCHEDULES
    if kind not in known and not schedule.get("trained_betas"):
        raise UserError(
            f"the model's beta_schedule {kind} is none of those of --sampler {name}: "
            f"{', '.join(known)}"
        )
    # DPM-Solver++ needs one more point than steps
    maximum = schedule["num_train_timesteps"] - (name == "dpmsolver++")
    if steps < 1:
        raise UserError(f"--num-sampling-steps {steps}: expected at least 1")
    if steps == 1 and name != "dpmsolver++" and spacing != "trailing":
        raise UserError(
            f"--num-sampling-steps 1: the only step of {name} is at timestep 0, which removes no "
            "noise: give 2 or more, or --timestep_spacing trailing"
        )
    if steps > maximum:
        raise UserError(
            f"--num-sampling-steps {steps} is above {maximum}, the maximum of {name} with this "
            "model"
        )


def uneven_steps(name, steps, schedule, spacing=None):
    """A note if the steps of a chain leave out a twentieth of its noise levels or more, else "".

    With `leading` a step takes a whole number of timesteps: 600 steps of 1000 take one each and
    begin at timestep 599. DDIM's steps do so with `trailing`, too: they are then shorter than the
    distance of its timesteps, and noise is left over.
    """
    count = schedule["num_train_timesteps"]
    if (spacing or SAMPLERS[name]) != "leading" and name != "ddim":
        return ""
    more = name == "dpmsolver++"  # divides the chain by one more

    def covers(steps):
        return (steps + more) * (count // (steps + more)) > 0.95 * count

    better = next((number for number in range(steps, 0, -1) if covers(number)), steps)
    if better == steps:
        return ""
    length = count // (steps + more)
    return (
        f"--num-sampling-steps {steps}: a step of {name} takes {length} of {count} timesteps, all "
        f"together {steps * length}: use {better} steps to cover the chain"
    )


class Sampler:
    """DDPM (ancestral), DDIM (η = 0) or DPM-Solver++ (second order) with `steps` steps.

    name: one of SAMPLERS; schedule: num_train_timesteps and the betas, as in scheduler_config.json
    of a pipeline.
    spacing: of the timesteps, one of SPACINGS, by default that of the sampler. With few steps
    `leading` begins far from pure noise (two steps: at timestep 500 of 1000), `trailing` at the
    last timestep (arXiv 2305.08891, section 3.3).
    interval: (low, high), the noise levels with guidance (arXiv 2404.07724), as timesteps divided
    by the number of training timesteps: 0 is clean, 1 is noise.

    noise_steps: number of noise tensors per image besides the starting latent.
    """

    def __init__(self, name, steps, schedule, spacing=None, interval=(0.0, 1.0)):
        from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

        check_steps(name, steps, schedule, spacing)
        if spacing and spacing not in SPACINGS:
            raise UserError(f"spacing {spacing}: expected one of {', '.join(SPACINGS)}, or None")
        spacing = spacing or SAMPLERS[name]
        self.name, self.steps, self.interval = name, steps, interval
        self.noise_steps = steps - 1 if name == "ddpm" else 0
        betas = {key: schedule[key] for key in SCHEDULE_KEYS if key in schedule}
        if name == "ddpm":
            self.scheduler = DDPMScheduler(
                **betas,
                variance_type="learned_range",
                timestep_spacing=spacing,
                clip_sample=False,
            )
        elif name == "ddim":
            self.scheduler = DDIMScheduler(
                **betas, timestep_spacing=spacing, steps_offset=0, clip_sample=False
            )
        else:
            self.scheduler = DPMSolverMultistepScheduler(
                **betas, solver_order=2, timestep_spacing=spacing, final_sigmas_type="zero"
            )
        self.scheduler.set_timesteps(steps)

    def is_guided(self, t):
        """Whether the timestep t is in the interval of guidance."""
        low, high = self.interval
        return low <= t / self.scheduler.config.num_train_timesteps <= high

    def evaluations(self, scale):
        """Network evaluations per image: two per step with guidance, else one."""
        guided = sum(self.is_guided(t) for t in self.scheduler.timesteps.tolist())
        return self.steps + (guided if scale != 1 else 0)

    @torch.no_grad()
    def sample(self, network, noise, labels, null_label, scale, cfg_channels):
        """Samples latents, float32 (N, C, H, W).

        network(x, t, labels) → (N, 2C, H, W); noise: (1 + noise_steps, N, C, H, W) of
        `batch_noise`; labels: (N,) int64; null_label: the class of the null branch; scale:
        guidance s, where 1 computes no null branch. The tensors are on the device.
        """
        self.scheduler.set_timesteps(self.steps)  # resets the multistep history
        # The scheduler reads its timesteps on the CPU, the network on the device
        timesteps = self.scheduler.timesteps
        device_timesteps = timesteps.to(noise.device)
        null_labels = torch.full_like(labels, null_label)
        x = noise[0]
        for step, (t, t_device) in enumerate(zip(timesteps, device_timesteps, strict=True)):
            if scale == 1 or not self.is_guided(int(t)):
                output = network(x, t_device.expand(len(x)), labels).float()  # (N, 2C, H, W)
            else:
                x2, labels2 = torch.cat([x, x]), torch.cat([labels, null_labels])
                both = network(x2, t_device.expand(len(x2)), labels2).float()  # (2N, 2C, H, W)
                output = guide(*both.chunk(2), scale, cfg_channels)
            if self.name == "ddpm":
                step_noise = noise[step + 1] if step < self.noise_steps else None
                x = ddpm_step(self.scheduler, output, t, x, step_noise)
            else:
                # diffusers' solvers take the predicted noise without the variance channels
                eps = output[:, : x.shape[1]]
                x = self.scheduler.step(eps, t, x, return_dict=False)[0]
        return x
