"""`python -m tests.bench`: the matrix."""

import sys

from .matrix import main

sys.exit(main(sys.argv[1:]))
