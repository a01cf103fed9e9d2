"""Results of finished runs: tables, sweeps, fidelity measures and plots."""
