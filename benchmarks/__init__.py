"""Benchmarks beside reference implementations in the same process: `python -m benchmarks.NAME`."""
