"""A log of one queue that has what it was told of, and gives it back when it is told to."""

from leveret.broker.testing import finish


class SlowLog:
    """Has every message that is not settled.

    Attributes:
      all: Those messages, by position.
      settlements: Positions in the order in which they were settled.
      asked: What is to be read.
      has_read: Whether anything was asked for.
    """

    def __init__(self):
        self.all = {}
        self.settlements = []
        self.asked = []
        self.has_read = False

    def enqueued(self, base, messages):
        self.all.update(enumerate(messages, base))

    def settled(self, positions):
        for position in positions:
            self.settlements.append(position)
            del self.all[position]

    def dropped(self, ranges):
        for first, last in ranges:
            self.settled([position for position in self.all if first <= position <= last])

    def delivered(self, position):
        pass

    def returned(self, positions):
        pass

    def note(self, fact, positions, values):
        pass

    def apply(self):
        pass

    def pack(self, *, is_shared):
        pass

    def close(self):
        pass

    def is_kept(self, base, count):
        return True

    def kept_until(self, position):
        return 1 << 60

    def count(self, position):
        return 0

    def sizes(self, position):
        return self.all[position].header_size, self.all[position].size

    def positions(self, first, end):
        return sorted(position for position in self.all if first <= position < end)

    def fetch(self, queue, paged):
        self.asked.append((queue, paged))
        self.has_read = True

    def answer(self):
        """Have everything read that was asked for."""
        while self.asked:
            self.answer_one()

    def answer_one(self):
        """Have read what was asked for first."""
        queue, paged = self.asked.pop(0)
        if queue.waits_for(paged):
            positions = list(paged.numbers(self.positions))
            queue.loaded(paged, [self.all[each] for each in positions], positions)
            finish(queue.vhost.broker)

    def page_out(self, queue):
        """Leave all that is ready or waits to the log alone."""
        for runs in queue.all_runs():
            runs.page_out(0, self.is_kept, 0)
