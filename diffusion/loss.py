"""Training objective of DiT (arXiv 2212.09748, after 2102.09672), label dropout and weight EMA."""

import math

import torch


class GaussianDiffusion:
    """The forward process and its training losses.

    For C latent channels the network predicts 2C: the noise ε, and v, which interpolates the log
    variance between that of the posterior (v = −1) and log β (v = 1); arXiv 2102.09672, eq. 15.
    """

    def __init__(self, betas, device="cpu"):
        """betas: the schedule, (T,)."""
        betas = torch.as_tensor(betas, dtype=torch.float64)
        alphas_bar = torch.cumprod(1 - betas, 0)
        alphas_bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), alphas_bar[:-1]])
        posterior_variance = betas * (1 - alphas_bar_prev) / (1 - alphas_bar)
        # The posterior variance of the first step is 0: the second replaces it before the log, as
        # in the official implementation.
        log_posterior = torch.log(torch.cat([posterior_variance[1:2], posterior_variance[1:]]))
        tables = {
            "signal": alphas_bar.sqrt(),
            "noise": (1 - alphas_bar).sqrt(),
            "log_beta": betas.log(),
            "log_posterior": log_posterior,
            # Posterior mean = x0_weight · x_0 + xt_weight · x_t (arXiv 2006.11239, eq. 7)
            "x0_weight": betas * alphas_bar_prev.sqrt() / (1 - alphas_bar),
            "xt_weight": (1 - alphas_bar_prev) * (1 - betas).sqrt() / (1 - alphas_bar),
        }
        self.steps = len(betas)
        self._tables = {name: table.float().to(device) for name, table in tables.items()}

    def _at(self, name, t):
        return self._tables[name][t].view(-1, 1, 1, 1)

    def add_noise(self, x0, t, noise):
        """x_t for latents x0 (N, C, H, W), steps t (N,) in 0…T−1 and standard normal noise (N, C,
        H, W).
        """
        return self._at("signal", t) * x0 + self._at("noise", t) * noise

    def losses(self, output, x0, xt, t, noise):
        """(mse, bound), both (N,): the mean squared error of ε, and the term of the variational
        bound at t in bits per dimension.

        output: the network's, (N, 2C, H, W). The bound trains the variance only: its mean is
        detached.
        """
        eps, v = output.float().chunk(2, dim=1)
        mse = (eps - noise).square().mean(dim=(1, 2, 3))
        log_posterior = self._at("log_posterior", t)
        log_variance = torch.lerp(log_posterior, self._at("log_beta", t), (v + 1) / 2)
        predicted_x0 = (xt - self._at("noise", t) * eps.detach()) / self._at("signal", t)
        mean = self._posterior_mean(predicted_x0, xt, t)
        kl = gaussian_kl(self._posterior_mean(x0, xt, t), log_posterior, mean, log_variance)
        nll = -discretised_gaussian_log_likelihood(x0, mean, log_variance / 2)
        bound = torch.where((t == 0).view(-1, 1, 1, 1), nll, kl).mean(dim=(1, 2, 3)) / math.log(2)
        return mse, bound

    def min_snr_weight(self, t, gamma):
        """Weights (N,) of the ε-MSE at steps t (N,): min(SNR, γ)/SNR with SNR = ᾱ/(1 − ᾱ), or 1 if
        γ is 0 (arXiv 2303.09556, section 3.4, for noise prediction).

        Steps with little noise, whose losses are large but carry little information, count less.
        """
        if not gamma:
            return torch.ones(len(t), device=t.device)
        snr = (self._tables["signal"][t] / self._tables["noise"][t]) ** 2
        return snr.clamp(max=gamma) / snr

    def _posterior_mean(self, x0, xt, t):
        return self._at("x0_weight", t) * x0 + self._at("xt_weight", t) * xt


def gaussian_kl(mean_q, log_variance_q, mean_p, log_variance_p):
    """KL(q ‖ p) of two diagonal Gaussians, elementwise, in nats."""
    ratio = torch.exp(log_variance_q - log_variance_p)
    return 0.5 * (
        log_variance_p
        - log_variance_q
        + ratio
        - 1
        + (mean_q - mean_p).square() * torch.exp(-log_variance_p)
    )


def discretised_gaussian_log_likelihood(x, mean, log_scale):
    """Log probability, elementwise in nats, of the bin of width 2/255 around x under N(mean,
    exp(log_scale)²).

    Values beyond ±0.999 are in the open outer bins (arXiv 2006.11239, eq. 13). The official DiT
    applies this to latents unchanged.
    """
    # Validation would wait for the device; the loss is checked where it is read
    normal = torch.distributions.Normal(0.0, 1.0, validate_args=False)
    below = normal.cdf((x - mean - 1 / 255) * torch.exp(-log_scale))
    above = normal.cdf((x - mean + 1 / 255) * torch.exp(-log_scale))
    probability = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return probability.clamp(min=1e-12).log()


def drop_labels(labels, num_classes, probability):
    """Replaces each of the labels (N,) by the null class `num_classes` with this probability.

    This is done once per sample: the blocks of diffusers' DiT would drop labels independently of
    each other.
    """
    dropped = torch.rand(labels.shape, device=labels.device) < probability
    return torch.where(dropped, num_classes, labels)


def moving_average(decay):
    """Exponential moving average of weights, as `multi_avg_fn` of torch's AveragedModel.

    The decay of the n-th update is min(decay, (1 + n)/(10 + n)), n ≥ 1, so that the average of a
    short run soon forgets the first steps.
    """

    @torch.no_grad()
    def update(averaged, current, count):
        # `count` stays a tensor: reading it would make the host wait for the GPU in every step
        weight = 1 - ((1 + count) / (10 + count)).clamp(max=decay)
        change = torch._foreach_sub(current, averaged)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(averaged, change)

    return update
