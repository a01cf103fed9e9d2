#!/bin/sh
# Fashion-MNIST: runs the cells of scripts/cells/fashion_mnist.txt, or CELL alone.
# See scripts/run_cells.sh. `python make_tables.py` makes the table of finished runs.
exec sh "$(dirname "$0")/run_cells.sh" fashion_mnist "$@"
