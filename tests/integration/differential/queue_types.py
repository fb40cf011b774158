"""Queue types: quorum queues in ordinary service, beside what is said of them elsewhere.

Deliveries are compared, counts only where a quorum queue of RabbitMQ knows them at once.
"""

from leveret.protocol.methods import (
    BasicAck,
    BasicCancel,
    BasicConsume,
    BasicGet,
    BasicNack,
    BasicQos,
    BasicRecover,
    BasicReject,
    ConfirmSelect,
    QueueBind,
    QueueDeclare,
    QueueDelete,
    TxCommit,
    TxSelect,
)

from .conversation import conversation, differs, reworded
from .delivery_limit import ZERO
from .letters import DLX, mourned

TYPE = "x-queue-type"
QUORUM = {TYPE: "quorum"}


ONE_MESSAGE = (
    "a1 < queue.declare-ok queue='~q' message_count=0 consumer_count=0",
    "a1 < confirm.select-ok",
    "a1 < confirms [1]",
    "a1 < queue.declare-ok queue='~q' message_count=1 consumer_count=0",
)


def _quorum(talk, messages=0, **arguments):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True, arguments={**QUORUM, **arguments}))
    a(ConfirmSelect())
    for number in range(1, messages + 1):
        a.publish("", talk.q, str(number).encode())
    if messages:
        a.hear_confirms(messages)
        a.count(talk.q, messages)
    return a


@conversation
def quorum_queue_delivers_in_order(talk):
    a = _quorum(talk, 5)
    a(BasicConsume(talk.q, "tag"))
    a.hear(5)
    a(BasicAck(5, multiple=True))
    a.quiet()
    a.count(talk.q, 0)


@conversation(unless=ZERO)
def quorum_queue_is_got_in_order(talk):
    a = _quorum(talk, 3)
    for _ in range(3):
        a(BasicGet(talk.q))
    a(BasicAck(0, multiple=True))
    a(BasicGet(talk.q))


@conversation
def quorum_queue_and_prefetch(talk):
    a = _quorum(talk, 3)
    a(BasicQos(prefetch_count=1))
    a(BasicConsume(talk.q, "tag"))
    for tag in (1, 2, 3):
        a.hear()
        a(BasicAck(tag))
    a.quiet()


RETURNS = {
    "one": ([BasicAck(2), BasicAck(3), BasicReject(1)], 1),
    "all": ([BasicNack(0, multiple=True)], 3),
    "forwards": ([BasicReject(1), BasicReject(2), BasicReject(3)], 3),
    "recover": ([BasicRecover(requeue=True)], 3),
}


@conversation(each=RETURNS)
def quorum_queue_takes_messages_back(talk, methods, count):
    a = _quorum(talk, 3)
    a(BasicConsume(talk.q, "tag"))
    a.hear(3)
    a(BasicCancel("tag"))
    for method in methods:
        a(method)
    a.quiet()
    a.count(talk.q, count, consumers=0)
    a(BasicConsume(talk.q, "again"))
    a.hear(count)


@conversation(
    unless=differs(
        "there is one kind of queue, and it knows global prefetch",
        *ONE_MESSAGE,
        "a1 < basic.qos-ok",
        "a1 < basic.consume-ok consumer_tag='tag'",
        "a1 < basic.deliver consumer_tag='tag' delivery_tag=1 redelivered=False exchange=''"
        " routing_key='~q' b'1'",
    )
)
def quorum_queue_and_global_prefetch(talk):
    a = _quorum(talk, 1)
    a(BasicQos(prefetch_count=1, global_=True))
    a(BasicConsume(talk.q, "tag"))
    a.hear()


@conversation(
    unless=reworded(
        "exclusive is exclusive on every queue",
        (
            "a2 < basic.consume-ok consumer_tag='other'",
            "a2 < channel.close 403 \"ACCESS_REFUSED - queue '~q' in vhost '/' in exclusive use\""
            " at basic.consume",
        ),
    )
)
def exclusive_consumer_of_a_quorum_queue(talk):
    a = _quorum(talk, 1)
    a(BasicConsume(talk.q, "tag", exclusive=True))
    a.hear()
    b = a.peer.channel()
    b(BasicConsume(talk.q, "other"))


@conversation
def consumer_priorities_of_a_quorum_queue(talk):
    a = _quorum(talk)
    b, c = talk.channel(), talk.channel()
    b(BasicConsume(talk.q, "low", arguments={"x-priority": 1}))
    c(BasicConsume(talk.q, "high", arguments={"x-priority": 9}))
    a.publish("", talk.q, b"1")
    a.hear_confirms(1)
    c.hear()
    b.quiet()


@conversation
def single_active_consumer_of_a_quorum_queue(talk):
    a = _quorum(talk, **{"x-single-active-consumer": True})
    b, c = talk.channel(), talk.channel()
    b(BasicQos(prefetch_count=1))
    b(BasicConsume(talk.q, "first"))
    c(BasicConsume(talk.q, "second"))
    for body in (b"1", b"2"):
        a.publish("", talk.q, body)
    a.hear_confirms(2)
    b.hear()
    c.quiet()
    b(BasicCancel("first"))
    c.hear()
    b(BasicAck(1))
    b.quiet()
    a.count(talk.q, 0, consumers=1)


@conversation
def transaction_with_a_quorum_queue(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True, arguments=QUORUM))
    a(TxSelect())
    a.publish("", talk.q, b"1")
    a(TxCommit())
    a.count(talk.q, 1)


@conversation
def quorum_queue_beside_a_classic_one(talk):
    a = _quorum(talk)
    other = talk.name("classic")
    a(QueueDeclare(other))
    b, c = talk.channel(), talk.channel()
    b(BasicConsume(talk.q, "quorum"))
    c(BasicConsume(other, "classic"))
    for name in (talk.q, other):
        a(QueueBind(name, "amq.direct", talk.q))
    a.publish("amq.direct", talk.q, b"to both", mandatory=True)
    a.hear_confirms(1)
    b.hear()
    c.hear()


DELETIONS = {
    "plain": {},
    "unused": {"if_unused": True},
    "empty": {"if_empty": True},
}
KNOWN = "there is one kind of queue, and it knows these conditions"
NOT_EMPTY = "PRECONDITION_FAILED - queue '~q' in vhost '/' not empty"


@conversation(
    each=DELETIONS,
    unless={
        "unused": differs(KNOWN, *ONE_MESSAGE, "a1 < queue.delete-ok message_count=1"),
        "empty": differs(
            KNOWN, *ONE_MESSAGE, f'a1 < channel.close 406 "{NOT_EMPTY}" at queue.delete'
        ),
    },
)
def quorum_queue_is_deleted(talk, options):
    a = _quorum(talk, 1)
    a(QueueDelete(talk.q, **options))


@conversation
def quorum_queue_with_a_consumer_is_deleted(talk):
    a = _quorum(talk)
    b = talk.channel()
    b(BasicConsume(talk.q, "tag"))
    a(QueueDelete(talk.q))
    b.hear()


DECLARED = {
    "again": QUORUM,
    "without_type": {},
    "as_classic": {TYPE: "classic"},
    "with_limit": {**QUORUM, "x-max-length": 5},
    "with_delivery_limit": {**QUORUM, "x-delivery-limit": 5},
}


@conversation(each=DECLARED)
def quorum_queue_is_declared_again(talk, arguments):
    a = _quorum(talk)
    a(QueueDeclare(talk.q, durable=True, arguments=arguments))


ACCEPTED = {
    "ttl": {"x-message-ttl": 60_000},
    "expires": {"x-expires": 60_000},
    "length": {"x-max-length": 5},
    "bytes": {"x-max-length-bytes": 5},
    "overflow_reject": {"x-overflow": "reject-publish"},
    "overflow_reject_dlx": {"x-overflow": "reject-publish-dlx"},
    "dead_letter": {DLX: ""},
    "at_least_once": {
        DLX: "",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    },
    "at_least_once_alone": {"x-dead-letter-strategy": "at-least-once"},
    "strategy_unknown": {DLX: "", "x-dead-letter-strategy": "perhaps"},
    "delivery_limit": {"x-delivery-limit": 5},
    "single_active": {"x-single-active-consumer": True},
    "mode": {"x-queue-mode": "lazy"},
    "version": {"x-queue-version": 2},
    "leader_locator": {"x-queue-leader-locator": "balanced"},
    "group_size": {"x-quorum-initial-group-size": 1},
    "in_memory_length": {"x-max-in-memory-length": 5},
    "unknown": {"x-of-mine": 5},
}


ONE_KIND = differs(
    "there is one kind of queue, and it takes these arguments or needs them not",
    ONE_MESSAGE[0],
)


@conversation(each=ACCEPTED, unless={"mode": ONE_KIND, "version": ONE_KIND})
def argument_of_a_quorum_queue(talk, arguments):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True, arguments={**QUORUM, **arguments}))


@conversation
def dead_letters_of_a_quorum_queue_at_least_once(talk):
    arguments = {
        **QUORUM,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    a, dead = mourned(talk, arguments, durable=True)
    a(BasicConsume(talk.q, "tag"))
    a.publish("", talk.q, b"1", headers={"mine": 1})
    a.hear()
    a(BasicReject(1, requeue=False))
    dead.hear()
    a.publish("", talk.q, b"2", expiration="20")
    a.hear()
    a(BasicNack(2, requeue=False))
    dead.hear()
