"""How a run goes: errors, files, flags, processes, checkpoints, loops, losses, diffusion sampling,
logging.
"""
