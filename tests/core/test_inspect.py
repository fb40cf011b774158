"""Looking at messages in memory: pages, filters, holders, and nothing that anybody could notice.

What has to be read first is in `tests/server/test_look.py`.
"""

import pytest

from leveret.broker.core import inspect, runs
from leveret.broker.core.broker import Broker
from leveret.broker.core.filter import Filter
from leveret.broker.core.hooks import QueueHook
from leveret.broker.core.inspect import LOOKED, OTHERS, peek
from leveret.protocol.methods import BasicGet, BasicNack, QueueDeclare

from ..support.client import Client
from ..support.fakes import Target, message, messages

CHUNK = 8


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(runs, "CHUNK_LENGTH", CHUNK)


@pytest.fixture
def broker():
    made = Broker()
    made.add_defaults()
    return made


@pytest.fixture
def queue(broker):
    return broker.vhosts["/"].declare_queue("q")


@pytest.fixture
def client(broker, queue):
    return Client(broker)


def put(queue, *contents):
    queue.incoming += contents
    queue.deal()


def look(queue, **options):
    """Return the page, all of which is in memory."""
    pages = []
    peek(queue, pages.append, **options)
    [page] = pages
    return page


def bodies(page):
    return [each.message.body for each in page.messages]


def positions(page):
    return [each.position for each in page.messages]


def all_pages(queue, **options):
    pages = [look(queue, **options)]
    while pages[-1].next is not None:
        pages.append(look(queue, after=pages[-1].next, **options))
    return pages


# Ready messages


def test_an_empty_queue_has_an_empty_page(queue):
    page = look(queue)

    assert ((), None, 0, 0) == (page.messages, page.next, page.looked, page.gone)


def test_ready_messages_are_shown_by_position(queue):
    put(queue, *messages(*range(3)))

    page = look(queue)

    assert [b"0", b"1", b"2"] == bodies(page)
    assert [0, 1, 2] == positions(page)
    assert [(False, None, None)] * 3 == [
        (each.redelivered, each.delivery_count, each.holder) for each in page.messages
    ]
    assert page.next is None


@pytest.mark.parametrize("limit", [1, 3, CHUNK, CHUNK + 1, 100])
def test_pages_together_have_each_message_once(queue, limit):
    count = 3 * CHUNK + 2
    put(queue, *messages(*range(count)))

    pages = all_pages(queue, limit=limit)

    assert list(range(count)) == [at for page in pages for at in positions(page)]
    assert all(limit == len(page.messages) for page in pages[:-1])


def test_pages_go_on_when_what_was_shown_has_left_the_queue(queue):
    put(queue, *messages(*range(10)))
    first = look(queue, limit=4)
    for _ in range(6):
        queue.pop()

    assert [6, 7, 8, 9] == positions(look(queue, after=first.next))


def test_any_position_begins_a_page(queue):
    put(queue, *messages(*range(3 * CHUNK)))

    assert [19, 20] == positions(look(queue, after="18", limit=2))


def test_only_the_asked_positions_are_looked_at(queue):
    put(queue, *messages(*range(3 * CHUNK)))
    queue.pop()

    page = look(queue, positions=[0, 5, 17, 99], limit=1)
    rest = look(queue, positions=[0, 5, 17, 99], after=page.next)

    assert ([5], [17]) == (positions(page), positions(rest))
    assert (None, 2) == (rest.next, rest.looked)


def test_what_somebody_has_is_not_asked_for_by_position(queue):
    with pytest.raises(ValueError, match="unacked are not looked at by position"):
        look(queue, state="unacked", positions=[1])


def test_what_came_back_stands_where_it_was_and_is_redelivered(queue):
    put(queue, *messages(*range(CHUNK + 4)))
    target = Target()
    target.consume(queue, prefetch_count=4)
    queue.deal()
    target.requeue(3)  # the first of them is dealt again at the end of a slice

    page = look(queue)

    assert [0, 1, 2, *range(4, CHUNK + 4)] == positions(page)
    assert [True] * 3 + [False] * CHUNK == [each.redelivered for each in page.messages]


def test_very_many_that_came_back_are_in_order(queue, monkeypatch):
    count = 3000
    put(queue, *messages(*range(count)))
    entries = [queue.pop()[:2] for _ in range(count)]
    for start in (2000, 0, 1000):
        queue.requeue(entries[start : start + 1000])

    pages = all_pages(queue, limit=700)

    assert list(range(count)) == [at for page in pages for at in positions(page)]


def test_what_may_have_been_delivered_before_a_restart_is_redelivered(queue):
    put(queue, *messages(*range(4)))
    queue.delivered_before = 1

    assert [True, True, False, False] == [each.redelivered for each in look(queue).messages]


def test_looking_changes_nothing(queue, broker):
    put(queue, *messages(*range(10)))
    target = Target()
    queue.incoming += messages(10)
    before = queue.runs.count, queue.bytes, queue.memory, queue.next_position

    all_pages(queue, limit=3)
    all_pages(queue, state="unacked")

    assert before == (queue.runs.count, queue.bytes, queue.memory, queue.next_position)
    assert 1 == len(queue.incoming)
    assert {} == broker.batch.touched
    target.consume(queue, no_ack=True)
    queue.deal()
    assert [(b"%d" % number, False) for number in range(11)] == [
        (body, redelivered) for _, _, body, redelivered in target.got
    ]


def test_a_page_of_a_long_queue_looks_at_its_own_messages_only(queue, monkeypatch):
    """What costs is what is shown, wherever it is."""
    put(queue, *messages(*range(100 * CHUNK)))
    made, spots = [], inspect._spots

    def counted(*arguments):
        for spot in spots(*arguments):
            made.append(spot)
            yield spot

    monkeypatch.setattr(inspect, "_spots", counted)

    assert 5 == len(look(queue, after=f"{90 * CHUNK}", limit=5).messages)
    assert 6 == len(made)


@pytest.mark.parametrize("after", ["x", "-1", "1.2", "²", "1" * 100, " 1"])
def test_where_no_page_ends_none_begins(queue, after):
    with pytest.raises(ValueError, match="no page ends at"):
        look(queue, after=after)


def test_a_state_that_is_not_there_is_refused_and_those_that_are_named(queue):
    with pytest.raises(ValueError, match="no state 'x', only ready, waiting, unacked"):
        look(queue, state="x")


# Filters


def test_a_filter_chooses_and_pages_are_filled(queue):
    for number in range(20):
        put(queue, message(b"%d" % number, "even" if number % 2 == 0 else "odd"))

    pages = all_pages(queue, wanted=Filter(routing_key="odd"), limit=4)

    assert [1, 3, 5, 7] == positions(pages[0])
    assert list(range(1, 20, 2)) == [at for page in pages for at in positions(page)]


def test_a_filter_that_finds_nothing_ends_its_page_in_time(queue):
    count = LOOKED + 10
    put(queue, *messages(*range(count)))

    first, second = all_pages(queue, wanted=Filter(routing_key="other"))

    assert ((), LOOKED, f"{LOOKED - 1}") == (first.messages, first.looked, first.next)
    assert ((), 10, None) == (second.messages, second.looked, second.next)


# Unacked messages


def test_unacked_messages_tell_who_holds_them(queue, client):
    client.session.peer = "127.0.0.1:5000"
    client.publish_many([b"0", b"1", b"2"])
    client.consume("q", "c", prefetch=2)

    page = look(queue, state="unacked")

    assert [b"0", b"1"] == bodies(page)
    holder = page.messages[1].holder
    assert ("127.0.0.1:5000", "guest", 1, "c", 2) == (
        holder.connection,
        holder.user,
        holder.channel,
        holder.consumer_tag,
        holder.delivery_tag,
    )
    assert page.messages[0].redelivered is None
    assert [2] == positions(look(queue))


def test_what_was_fetched_is_held_without_a_consumer(queue, client):
    client.publish(b"0")
    client.send(BasicGet("q"))

    [found] = look(queue, state="unacked").messages

    assert "" == found.holder.consumer_tag


def test_what_consumers_of_other_queues_hold_is_not_shown(queue, client):
    client.declare("other")
    for name in ("q", "other"):
        client.publish(b"0", name)
        client.consume(name, name)

    assert ["q"] == [each.holder.consumer_tag for each in look(queue, state="unacked").messages]


def test_pages_of_unacked_messages_go_over_channels_and_connections(queue, client, broker):
    other = Client(broker)
    client.open_channel(2)
    client.publish_many([b"%d" % number for number in range(12)])
    client.consume("q", "a", prefetch=4)
    client.consume("q", "b", prefetch=4, channel=2)
    other.consume("q", "c", prefetch=4)

    pages = all_pages(queue, state="unacked", limit=3)

    assert [3, 3, 3, 3] == [len(page.messages) for page in pages]
    assert ["a"] * 4 + ["b"] * 4 + ["c"] * 4 == [
        each.holder.consumer_tag for page in pages for each in page.messages
    ]
    assert list(range(12)) == sorted(at for page in pages for at in positions(page))


def test_pages_of_unacked_messages_go_on_when_a_connection_is_lost(queue, client, broker):
    other = Client(broker)
    client.publish_many([b"0", b"1", b"2", b"3"])
    client.consume("q", "a", prefetch=2)
    other.consume("q", "b", prefetch=2)
    first = look(queue, state="unacked", limit=2)
    client.lose()

    second = look(queue, state="unacked", after=first.next)

    assert ["b", "b"] == [each.holder.consumer_tag for each in second.messages]


def test_pages_of_unacked_messages_go_on_when_most_of_them_are_settled(queue, client):
    client.publish_many([b"%d" % number for number in range(20)])
    client.consume("q", "a")
    first = look(queue, state="unacked", limit=2)
    client.ack(15, multiple=True)
    client.ack(17)

    assert [15, 17, 18, 19] == positions(look(queue, state="unacked", after=first.next))


def test_entries_of_other_queues_are_passed_some_at_a_time(queue, client, monkeypatch):
    monkeypatch.setattr(inspect, "LOOKED", 4)
    client.send(QueueDeclare("other"))
    client.publish_many([b""] * OTHERS * 6, "other")
    client.consume("other", "other")
    client.publish(b"0")
    client.consume("q", "c")

    first, second = all_pages(queue, state="unacked")

    assert (0, 4, f"1.1.{OTHERS * 4}") == (len(first.messages), first.looked, first.next)
    assert ["c"] == [each.holder.consumer_tag for each in second.messages]


def test_what_is_settled_or_comes_back_is_not_unacked_any_more(queue, client):
    client.publish_many([b"0", b"1"])
    client.consume("q", "a", prefetch=2)
    client.send(BasicNack(2, False, False))

    assert [0] == positions(look(queue, state="unacked"))


# What plugins have to do with a queue


class Late(QueueHook):
    """Messages of the key "late" wait for a second; all expire after three."""

    def placed(self, base, messages):
        now = self.queue.vhost.broker.now
        self.queue.expire_at(now + 3000, base, len(messages))
        for position, each in enumerate(messages, base):
            if each.envelope.method.routing_key == "late":
                self.queue.wait_until(position, now + 1000)


@pytest.fixture
def hooked(broker):
    broker.registry.queue_hook(lambda queue: Late, phase=1)
    made = broker.vhosts["/"].declare_queue("hooked")
    made.vhost.refit(made, is_forced=True)
    return made


def test_what_waits_for_a_moment_is_shown_with_it(broker, hooked):
    broker.now, broker.wall_offset = 5, 100_000
    put(hooked, message(b"0"), message(b"1", "late"), message(b"2"), message(b"3", "late"))

    ready, waiting = look(hooked), look(hooked, state="waiting")

    assert ([0, 2], [1, 3]) == (positions(ready), positions(waiting))
    assert [(101_005, 103_005)] * 2 == [(each.due, each.deadline) for each in waiting.messages]
    assert [(None, 103_005)] * 2 == [(each.due, each.deadline) for each in ready.messages]


def test_nothing_waits_in_a_queue_without_plugins(queue):
    put(queue, message(b"0"))

    assert () == look(queue, state="waiting").messages


def test_all_lanes_are_shown_by_position(broker, hooked):
    put(hooked, *messages(*range(20)))
    lane, other = hooked.runs, runs.Runs()
    lane.remove(3, 9)
    other.append(3, messages(*range(3, 10)))
    hooked.extras.lanes.all = lambda: (lane, other)

    pages = all_pages(hooked, limit=6)

    assert list(range(20)) == [at for page in pages for at in positions(page)]


def test_what_came_back_to_a_queue_with_plugins_is_redelivered_and_counted(hooked):
    put(hooked, *messages(0, 1))
    position, content, _ = hooked.pop()
    hooked.requeue([(position, content)])

    assert [(True, 1), (False, 0)] == [
        (each.redelivered, each.delivery_count) for each in look(hooked).messages
    ]


# More states


def test_a_plugin_adds_a_state(queue, monkeypatch):
    content = message(b"late")
    state = inspect.State(lambda queue, after: iter([inspect.Spot((7,), 3, content)]), 1)
    monkeypatch.setitem(inspect.STATES, "delayed", state)

    assert [(3, b"late")] == [
        (each.position, each.message.body) for each in look(queue, state="delayed").messages
    ]
