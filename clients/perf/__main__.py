"""`python -m leveret.clients.perf`: the generator without the `leveret` command."""

import sys

from leveret.clients.perf import main

sys.exit(main(sys.argv[1:]))
