"""Class-conditional DiT: loading pipelines, sampling, and training.

from diffusion import Sampler, batch_noise, load_pipeline
"""

from diffusion.pipeline import load_pipeline, read_pipeline
from diffusion.sampler import Sampler, batch_noise

__all__ = ["Sampler", "batch_noise", "load_pipeline", "read_pipeline"]
