"""Whatever happens to a hooked queue, it equals a few plain lists.

The model: ready and waiting messages, those a channel holds, and the dead letters in order. Time
goes on a millisecond at a time. Between any two steps the bodies of all that is not unacknowledged
may be left to a log, which gives them back when they are asked for, or later.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from leveret.broker import plugins
from leveret.broker.core.broker import Broker
from leveret.broker.core.hooked import HookedQueue
from leveret.broker.core.message import OVERHEAD
from leveret.broker.testing import advance, finish
from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicConsumeOk,
    BasicGet,
    BasicGetEmpty,
    BasicNack,
    BasicQos,
    QueuePurge,
    QueuePurgeOk,
)

from ..support.client import Client, Received
from ..support.logs import SlowLog
from ..support.policies import set_policy

HEADERS = {(False, False): 14, (True, False): 15}
POLICIES = (
    None,
    {"message-ttl": 20},
    {"message-ttl": 0},
    {"max-length": 3},
    {"max-length-bytes": 12},
    {"message-delay": 10},
    {"message-delay": 5, "message-ttl": 10},
    {"max-length": 4, "message-ttl": 15},
)
picks = st.integers(0, 1 << 16)


class Patient(Client):
    """A client whose broker reads what it needs."""

    log = None

    def feed(self, data):
        self.session.receive(data)
        for _ in range(100):
            if self.session.run(lambda: False):
                break
            self.log.answer()
            finish(self.broker)
        else:
            raise AssertionError("it never comes to an end")
        finish(self.broker)
        self._read()


class Copy:
    """A message."""

    def __init__(self, number, priority, body, header):
        self.number = number
        self.priority = priority
        self.body = body
        self.octets = len(body) + header
        self.deadline = None
        self.due = None
        self.returns = 0

    def __repr__(self):
        return f"<{self.number}, priority {self.priority}, dies at {self.deadline}>"


class HookedMachine(RuleBasedStateMachine):
    """One queue, one client, one consumer at most."""

    def __init__(self):
        super().__init__()
        self.broker = Broker(registry=plugins.load(are_others_wanted=False))
        self.broker.add_defaults()
        self.broker.now = 1000
        self.log = SlowLog()
        self.client = Patient(self.broker)
        self.client.log = self.log
        self.client.open_channel(2)
        self.client.declare("dlq")
        self.vhost = self.broker.vhosts["/"]
        self.ready, self.waiting, self.dead = [], [], []
        self.held = {}  # by tag
        self.by_consumer = set()  # tags
        self.next_tag = 1
        self.count = 0
        self.prefetch = None  # that of the consumer, None without one
        self.policy = {}
        self.adopts_before = 0  # numbers that were there when the time to live came

    @initialize(highest=st.sampled_from([None, None, 3]))
    def declare(self, highest):
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dlq"}
        self.highest = highest
        if highest is not None:
            arguments["x-max-priority"] = highest
        self.client.declare(arguments=arguments)
        self.queue = self.vhost.queue("q")
        self.queue.log = self.log

    # the model

    def rank(self, copy):
        return -min(copy.priority, self.highest or 0), copy.number

    def serve(self):
        """Hand out, drop what is too much, then what was only for now."""
        self.ready.sort(key=self.rank)
        while self.ready and self.has_room():
            copy = self.ready.pop(0)
            self.by_consumer.add(self.next_tag)
            self.hold(copy)
        limit, octets = self.policy.get("max-length"), self.policy.get("max-length-bytes")
        while (limit is not None and len(self.ready) > limit) or (
            octets is not None and sum(len(copy.body) for copy in self.ready) > octets
        ):
            self.die(self.ready.pop(0), "maxlen")
        self.expire()

    def has_room(self):
        return self.prefetch is not None and len(self.by_consumer & set(self.held)) < self.prefetch

    def hold(self, copy):
        self.held[self.next_tag] = copy
        self.next_tag += 1

    def expire(self):
        gone = [copy for copy in self.ready if copy.deadline is not None]
        gone = [copy for copy in gone if copy.deadline <= self.broker.now]
        for copy in sorted(gone, key=lambda copy: (copy.deadline, copy.number)):
            self.ready.remove(copy)
            self.die(copy, "expired")

    def adopt(self, copy):
        """Give a message a time to live that came when it waited, or somebody had it."""
        if copy.number < self.adopts_before:
            dies = self.broker.now + self.policy["message-ttl"]
            copy.deadline = dies if copy.deadline is None else min(copy.deadline, dies)

    def die(self, copy, reason):
        self.dead.append((copy.body, reason))

    def let_time_pass(self, milliseconds, *, is_read=True):
        for _ in range(milliseconds):
            advance(self.broker, 0.001)
            if is_read:
                self.log.answer()
            now = self.broker.now
            due = [copy for copy in self.waiting if copy.due <= now]
            for copy in sorted(due, key=lambda copy: (copy.due, copy.number)):
                self.waiting.remove(copy)
                self.adopt(copy)
                self.ready.append(copy)
            self.expire()
            self.serve()

    # rules

    @rule(
        count=st.integers(1, 4),
        life=st.sampled_from([None, None, 0, 5, 30]),
        priority=st.sampled_from([None, 0, 1, 2, 9]),
        size=st.integers(0, 4),
    )
    def publish(self, count, life, priority, size):
        ttl, delay = self.policy.get("message-ttl"), self.policy.get("message-delay", 0)
        for _ in range(count):
            body = b"%d" % self.count + b"." * size
            header = 14 + (priority is not None) + (0 if life is None else 1 + len(str(life)))
            copy = Copy(self.count, priority or 0, body, header)
            self.count += 1
            lives = [each for each in (ttl, life) if each is not None]
            if lives:
                copy.deadline = self.broker.now + delay + min(lives)
            if delay:
                copy.due = self.broker.now + delay
                self.waiting.append(copy)
            else:
                self.ready.append(copy)
            self.serve()
            expiration = None if life is None else str(life)
            self.client.publish(body, expiration=expiration, priority=priority, channel=2)

    @rule()
    def get(self):
        [answer] = self.say(BasicGet("q"))
        if not self.ready:
            assert BasicGetEmpty() == answer
            return
        copy = self.ready.pop(0)
        assert (copy.body, self.next_tag, copy.returns > 0, len(self.ready)) == (
            answer.body,
            answer.tag,
            answer.method.redelivered,
            answer.method.message_count,
        )
        self.hold(copy)

    @precondition(lambda self: self.held)
    @rule(pick=picks, multiple=st.booleans(), how=st.sampled_from(["ack", "reject", "requeue"]))
    def settle(self, pick, multiple, how):
        tag = sorted(self.held)[pick % len(self.held)]
        tags = [each for each in sorted(self.held) if each <= tag] if multiple else [tag]
        copies = [self.held.pop(each) for each in tags]
        if how == "reject":
            for copy in copies:
                self.die(copy, "rejected")
        if how == "requeue":
            for copy in sorted(copies, key=lambda copy: copy.number):
                copy.returns += 1
                self.adopt(copy)
                if copy.deadline is not None and copy.deadline <= self.broker.now:
                    self.die(copy, "expired")
                else:
                    self.ready.append(copy)
        self.serve()
        method = BasicAck(tag, multiple)
        if how != "ack":
            method = BasicNack(tag, multiple, how == "requeue")
        assert [] == self.say(method)

    @precondition(lambda self: self.prefetch is None)
    @rule(prefetch=st.integers(1, 3))
    def consume(self, prefetch):
        self.client.call(BasicQos(0, prefetch))
        self.prefetch = prefetch
        self.by_consumer.clear()
        self.serve()
        assert [BasicConsumeOk("c")] == self.say(BasicConsume("q", "c"))

    @precondition(lambda self: self.prefetch is not None)
    @rule()
    def cancel(self):
        self.prefetch = None
        assert 1 == len(self.say(BasicCancel("c")))

    @rule()
    def purge(self):
        count, self.ready = len(self.ready), []
        assert [QueuePurgeOk(count)] == self.say(QueuePurge("q"))

    @rule(milliseconds=st.integers(1, 12))
    def wait(self, milliseconds):
        self.let_time_pass(milliseconds)

    @rule(definition=st.sampled_from(POLICIES))
    def apply(self, definition):
        if definition is None and not self.policy:
            return
        had_ttl = "message-ttl" in self.policy
        self.policy = definition or {}
        ttl = self.policy.get("message-ttl")
        if ttl is None:
            self.adopts_before = 0
        elif not had_ttl:
            self.adopts_before = self.count
            dies = self.broker.now + ttl
            for copy in self.ready:
                copy.deadline = dies if copy.deadline is None else min(copy.deadline, dies)
        set_policy(self.vhost, definition, pattern="^q$")
        self.expire()
        self.serve()

    @rule()
    def page_out(self):
        self.log.page_out(self.queue)

    @precondition(lambda self: self.prefetch is None and not self.waiting)
    @rule(milliseconds=st.integers(1, 30), is_purged=st.booleans())
    def expire_while_nothing_is_read(self, milliseconds, is_purged):
        self.log.page_out(self.queue)
        self.let_time_pass(milliseconds, is_read=False)
        if is_purged:
            self.purge()

    # what comes

    def say(self, *methods):
        """Send methods on channel 1; return the answers other than deliveries."""
        return self.look(self.client.send(*methods))

    def look(self, answers):
        others = []
        for item in answers:
            if isinstance(item, Received) and hasattr(item.method, "consumer_tag"):
                copy = self.held[item.tag]
                assert (copy.body, copy.returns > 0) == (item.body, item.method.redelivered)
                self.got.append(item.tag)
            else:
                others.append(item)
        return others

    got = ()

    def check_deliveries(self):
        self.got = []
        assert [] == self.look(self.client.take())

    @invariant()
    def it_is_as_the_model_says(self):
        self.log.answer()
        self.got = []
        assert [] == self.look(self.client.take())
        held = list(self.held.values())

        assert len(self.ready) == self.queue.ready_count
        assert len(self.waiting) == self.queue.waiting_count
        assert len(held) == self.queue.unacked_count
        everything = [*self.ready, *self.waiting, *held]
        assert sum(copy.octets for copy in everything) == self.queue.bytes
        assert sorted(copy.number for copy in everything) == sorted(self.log.all)
        paged = sum(runs.paged_count for runs in self.queue.all_runs())
        if not paged and not self.queue.returned.absent_bytes:
            assert self.queue.bytes + len(everything) * OVERHEAD == self.queue.memory
        if isinstance(self.queue, HookedQueue):
            self.check_what_is_known()
        dead = []
        while isinstance(answer := self.client.call(BasicGet("dlq", True), channel=2), Received):
            dead.append((answer.body, answer.properties.headers["x-death"][0]["reason"]))
        expected, self.dead = self.dead, []
        if self.log.has_read:  # what is in memory need not wait for it
            expected, dead = sorted(expected), sorted(dead)
        self.log.has_read = False
        assert expected == dead

    def check_what_is_known(self):
        extras = self.queue.extras
        if "max-length-bytes" in self.policy:
            assert sum(len(copy.body) for copy in self.ready) == extras.body_octets
        alive = {copy.number: copy for copy in (*self.ready, *self.waiting, *self.held.values())}
        for position, count in extras.returns:  # while the queue was plain nobody counted
            assert 0 < count <= alive[position].returns
        for copy in self.ready:
            assert (copy.deadline or 0) == extras.deadlines.get(copy.number)
        assert 0 == extras.leaving


TestHookedModel = HookedMachine.TestCase
TestHookedModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
