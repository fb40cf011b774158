"""Hold conversations by hand: `python -m tests.integration.differential [-k TEXT] [-s]`.

Prints what the brokers disagree about; with -s, what RabbitMQ says instead.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from ...support.leveret import leveret
from ...support.rabbitmq import rabbitmq, why_not
from .definitions import DEFINITIONS, PLUGINS
from .suite import chosen, disagreement, hold


def main() -> int:
    """Print disagreements, or transcripts."""
    parser = argparse.ArgumentParser(description="Hold the conversations of the suite.")
    parser.add_argument("-k", dest="pattern", default="", help="only titles with this text")
    parser.add_argument("-s", dest="shows", action="store_true", help="show RabbitMQ's transcripts")
    options = parser.parse_args()
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 2
    conversations = chosen(options.pattern)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "definitions.json")
        file.write_text(json.dumps(DEFINITIONS))
        with (
            rabbitmq(definitions=DEFINITIONS, plugins=PLUGINS) as node,
            leveret("--topology", str(file)) as ours,
        ):
            addresses = [(node.host, node.port), (ours.host, ours.port)]
            transcripts = hold(conversations, addresses)
    wrong = 0
    for item in conversations:
        theirs, ours = transcripts[item.title]
        problem = disagreement(item, theirs, ours)
        wrong += bool(problem)
        text = "\n".join((*theirs.lines, theirs.failure)) if options.shows else problem
        if text:
            print(f"\n{item.title}\n{text}")
    print(f"\n{len(conversations)} conversations, {wrong} disagreements", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
