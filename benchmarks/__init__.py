"""Measurements of speed, each beside named references in the same process: `python -m
benchmarks.NAME`.
"""
