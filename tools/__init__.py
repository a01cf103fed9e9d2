"""Small commands: `python -m tools.NAME --help`."""
