"""``python -m leveret.broker`` is the ``leveret`` command."""

import sys

from leveret.broker.cli import main

sys.exit(main())
