#!/bin/sh
# Table 1, CIFAR-100: the cells of scripts/cells/table1_cifar100.txt, all unfinished ones or CELL alone.
# scripts/run_cells.sh says what can be set. `python make_tables.py` makes the table of what has been run.
exec sh "$(dirname "$0")/run_cells.sh" table1_cifar100
