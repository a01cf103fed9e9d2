#!/bin/sh
# Fashion-MNIST: the cells of scripts/cells/fashion_mnist.txt, all unfinished ones or CELL alone.
# scripts/run_cells.sh says what can be set. `python make_tables.py` makes the table of what has been run.
exec sh "$(dirname "$0")/run_cells.sh" fashion_mnist
