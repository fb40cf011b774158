"""Transactions: what waits for commit, what rollback undoes."""

from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicQos,
    BasicReject,
    ChannelClose,
    QueueBind,
    QueueDeclare,
    QueueDelete,
    TxCommit,
    TxRollback,
    TxSelect,
)

from .conversation import conversation


def _selected(talk, messages=0):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    for number in range(1, messages + 1):
        a.publish("", talk.q, str(number).encode())
    a(TxSelect())
    return a


@conversation(each={"commit": TxCommit(), "rollback": TxRollback()})
def transaction_that_was_never_selected(talk, method):
    a = talk.channel()
    a(method)


@conversation
def selecting_twice(talk):
    a = _selected(talk)
    a.publish("", talk.q, b"kept")
    a(TxSelect())
    a(TxCommit())
    a.drain(talk.q)


@conversation(each={"commit": TxCommit(), "rollback": TxRollback()})
def empty_transaction(talk, method):
    a = _selected(talk)
    a(method)
    a(method)


@conversation
def publishes_wait_for_commit(talk):
    a = _selected(talk)
    b = talk.channel()
    a.publish("", talk.q, b"1")
    a.publish("", talk.q, b"2")
    b.count(talk.q, 0)
    a(TxCommit())
    b.count(talk.q, 2)
    b.drain(talk.q)


@conversation
def rollback_drops_publishes(talk):
    a = _selected(talk)
    a.publish("", talk.q, b"1")
    a(TxRollback())
    a(TxCommit())
    a.count(talk.q, 0)


@conversation
def acks_wait_for_commit(talk):
    a = _selected(talk, 2)
    b = a.peer.channel()
    a(BasicGet(talk.q))
    a(BasicAck(1))
    a(TxCommit())
    a(BasicGet(talk.q))
    a(BasicAck(2))
    a(ChannelClose())
    b.count(talk.q, 1)
    b.drain(talk.q)


@conversation
def rollback_makes_acked_messages_unsettled_again(talk):
    a = _selected(talk, 2)
    a(BasicGet(talk.q))
    a(BasicGet(talk.q))
    a(BasicAck(1))
    a(TxRollback())
    a.count(talk.q, 0)
    a(BasicAck(1))
    a(BasicAck(2))
    a(TxCommit())
    a(QueueDelete(talk.q))


@conversation
def rejects_wait_for_commit(talk):
    a = _selected(talk, 2)
    a(BasicGet(talk.q))
    a(BasicGet(talk.q))
    a(BasicReject(1))
    a(BasicNack(2, requeue=False))
    a.count(talk.q, 0)
    a(TxCommit())
    a.drain(talk.q)


@conversation
def returns_wait_for_commit(talk):
    a = _selected(talk)
    a.publish("", "nowhere", b"back", mandatory=True)
    a.publish("", talk.q, b"kept", mandatory=True)
    a.publish("", "nowhere", b"back too", mandatory=True)
    a.quiet()
    a(TxCommit())
    a.hear(2)


@conversation
def rolled_back_returns_never_come(talk):
    a = _selected(talk)
    a.publish("", "nowhere", b"never", mandatory=True)
    a(TxRollback())
    a(TxCommit())
    a.quiet()


@conversation
def publish_to_a_missing_exchange_fails_at_once(talk):
    a = _selected(talk)
    a.publish("", talk.q, b"dropped with the channel")
    a.publish(talk.x, "key", b"fails")
    a.quiet()
    b = a.peer.channel()
    b.count(talk.q, 0)


@conversation(each={"ack": BasicAck(9), "nack": BasicNack(9), "reject": BasicReject(9)})
def unknown_tag_fails_at_once(talk, method):
    a = _selected(talk)
    a(method)
    a.quiet()


@conversation
def tag_settled_twice_in_a_transaction(talk):
    a = _selected(talk, 1)
    a(BasicGet(talk.q))
    a(BasicAck(1))
    a(BasicAck(1))
    a.quiet()


@conversation
def queue_deleted_before_commit(talk):
    a = _selected(talk)
    a.publish("", talk.q, b"lost", mandatory=True)
    a(QueueDelete(talk.q))
    a(TxCommit())
    a.quiet()


@conversation
def topology_changes_do_not_wait(talk):
    a = _selected(talk)
    other = talk.name("other")
    a(QueueDeclare(other))
    a(QueueBind(other, "amq.direct", other))
    a(TxRollback())
    a.count(other, 0)


@conversation
def binding_made_in_a_transaction_does_not_change_earlier_publishes(talk):
    a = _selected(talk)
    a.publish("amq.direct", talk.q, b"too early", mandatory=True)
    a(QueueBind(talk.q, "amq.direct", talk.q))
    a.publish("amq.direct", talk.q, b"in time", mandatory=True)
    a(TxCommit())
    a.hear()
    a.drain(talk.q)


@conversation
def committed_messages_reach_consumers_in_order(talk):
    a = _selected(talk)
    b = talk.channel()
    b(BasicConsume(talk.q, "tag"))
    for number in range(4):
        a.publish("", talk.q, str(number).encode())
    a(TxCommit())
    b.hear(4)


@conversation
def acks_of_a_transaction_free_the_window_at_commit(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q))
    for number in range(3):
        a.publish("", talk.q, str(number).encode())
    a(TxSelect())
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    a.hear()
    a(BasicAck(1))
    a.count(talk.q, 2)
    a(TxCommit())
    a.hear()


@conversation
def gets_do_not_wait(talk):
    a = _selected(talk, 1)
    a(BasicGet(talk.q))
    a(TxRollback())
    a.count(talk.q, 0)


@conversation
def closing_drops_an_open_transaction_with_acks(talk):
    a = _selected(talk, 1)
    a(BasicGet(talk.q))
    a(BasicAck(1))
    a(ChannelClose())
    b = a.peer.channel()
    b.count(talk.q, 1)
    b.drain(talk.q)


@conversation
def persistent_messages_in_a_transaction(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True))
    a(TxSelect())
    for number in range(3):
        a.publish("", talk.q, str(number).encode(), delivery_mode=2)
    a(TxCommit())
    a.drain(talk.q)
    a(QueueDelete(talk.q))
