"""Finished runs → tables, sweeps, fidelity measures and plots."""
