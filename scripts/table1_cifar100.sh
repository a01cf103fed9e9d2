#!/bin/sh
# Table 1, CIFAR-100: runs the cells of scripts/cells/table1_cifar100.txt, or CELL alone.
# See scripts/run_cells.sh. `python make_tables.py` makes the table of finished runs.
exec sh "$(dirname "$0")/run_cells.sh" table1_cifar100 "$@"
