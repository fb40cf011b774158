"""Arguments of queues, exchanges and consumers: what is accepted, compared and refused."""

from leveret.protocol.methods import (
    BasicAck,
    BasicConsume,
    BasicGet,
    ConfirmSelect,
    QueueDeclare,
    QueueDelete,
)
from leveret.protocol.table import (
    Float32,
    Int8,
    Int16,
    Int64,
    LongInt64,
    Timestamp,
    UInt8,
    UInt16,
    UInt32,
)

from .conversation import conversation, differs, reworded

TEN_YEARS = 315_360_000_000
DEAD = "x-dead-letter-exchange"
DEAD_KEY = "x-dead-letter-routing-key"

ACCEPTED = {
    "ttl_zero": {"x-message-ttl": 0},
    "ttl_ten_years": {"x-message-ttl": TEN_YEARS},
    "expires": {"x-expires": 60_000},
    "expires_ten_years": {"x-expires": TEN_YEARS},
    "length_zero": {"x-max-length": 0},
    "length_huge": {"x-max-length": 1 << 62},
    "bytes_zero": {"x-max-length-bytes": 0},
    "overflow_drop_head": {"x-overflow": "drop-head"},
    "overflow_reject": {"x-overflow": "reject-publish"},
    "overflow_reject_dlx": {"x-overflow": "reject-publish-dlx"},
    "dead_letter": {DEAD: ""},
    "dead_letter_missing_exchange": {DEAD: "not there", DEAD_KEY: "key"},
    "priority_zero": {"x-max-priority": 0},
    "priority_255": {"x-max-priority": 255},
    "single_active": {"x-single-active-consumer": True},
    "not_single_active": {"x-single-active-consumer": False},
    "type_classic": {"x-queue-type": "classic"},
    "mode_lazy": {"x-queue-mode": "lazy"},
    "mode_default": {"x-queue-mode": "default"},
    "version_1": {"x-queue-version": 1},
    "version_2": {"x-queue-version": 2},
    "unknown": {"x-of-mine": "anything", "other": [1, {"a": None}]},
}


@conversation(each=ACCEPTED)
def queue_argument_that_is_accepted(talk, arguments):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True, arguments=arguments))


REFUSED = {
    "ttl_negative": {"x-message-ttl": -1},
    "ttl_above_ten_years": {"x-message-ttl": TEN_YEARS + 1},
    "ttl_string": {"x-message-ttl": "1000"},
    "ttl_bool": {"x-message-ttl": True},
    "ttl_float": {"x-message-ttl": 1.5},
    "ttl_float32": {"x-message-ttl": Float32(1.5)},
    "ttl_void": {"x-message-ttl": None},
    "ttl_timestamp": {"x-message-ttl": Timestamp(1000)},
    "ttl_bytes": {"x-message-ttl": b"1000"},
    "ttl_table": {"x-message-ttl": {"a": 1}},
    "ttl_array": {"x-message-ttl": [1]},
    "expires_zero": {"x-expires": 0},
    "expires_negative": {"x-expires": -5},
    "expires_above_ten_years": {"x-expires": TEN_YEARS + 1},
    "expires_string": {"x-expires": "1000"},
    "length_negative": {"x-max-length": -1},
    "length_string": {"x-max-length": "5"},
    "length_float": {"x-max-length": 5.0},
    "bytes_negative": {"x-max-length-bytes": -1},
    "bytes_string": {"x-max-length-bytes": "5"},
    "overflow_unknown": {"x-overflow": "drop-tail"},
    "overflow_number": {"x-overflow": 1},
    "dead_letter_number": {DEAD: 5},
    "dead_letter_void": {DEAD: None},
    "dead_letter_key_alone": {DEAD_KEY: "key"},
    "dead_letter_key_number": {DEAD: "", DEAD_KEY: 5},
    "priority_negative": {"x-max-priority": -1},
    "priority_256": {"x-max-priority": 256},
    "priority_string": {"x-max-priority": "5"},
    "single_active_string": {"x-single-active-consumer": "true"},
    "single_active_number": {"x-single-active-consumer": 1},
    "type_unknown": {"x-queue-type": "fast"},
    "type_number": {"x-queue-type": 5},
    "mode_unknown": {"x-queue-mode": "eager"},
    "mode_number": {"x-queue-mode": 1},
    "version_0": {"x-queue-version": 0},
    "version_3": {"x-queue-version": 3},
    "version_string": {"x-queue-version": "2"},
    "two_wrong": {"x-message-ttl": -1, "x-expires": 0},
    "two_wrong_other_way": {"x-expires": 0, "x-message-ttl": -1},
}


@conversation(each=REFUSED)
def queue_argument_that_is_refused(talk, arguments):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True, arguments=arguments))


DECLARED = "a1 < queue.declare-ok queue='~q' message_count=0 consumer_count=0"
OF_QUORUM_QUEUES = {
    "delivery_limit": {"x-delivery-limit": 5},
    "leader_locator": {"x-queue-leader-locator": "balanced"},
    "group_size": {"x-quorum-initial-group-size": 3},
    "in_memory_length": {"x-max-in-memory-length": 5},
    "in_memory_bytes": {"x-max-in-memory-bytes": 5},
    "dead_letter_strategy": {DEAD: "", "x-dead-letter-strategy": "at-least-once"},
}


@conversation(
    each=OF_QUORUM_QUEUES,
    unless=differs(
        "there is one kind of queue, and it honours these arguments or needs them not",
        DECLARED,
    ),
)
def queue_argument_of_quorum_queues(talk, arguments):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True, arguments=arguments))


@conversation(
    each={"classic": "rabbit_classic_queue", "quorum": "rabbit_quorum_queue"},
    unless=differs("full module names are accepted, as in 4.x", DECLARED),
)
def queue_type_named_by_its_module(talk, kind):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True, arguments={"x-queue-type": kind}))


@conversation(
    unless=differs(
        "streams are refused until they exist",
        r"a1 < channel.close 406 'PRECONDITION_FAILED - invalid arg \'x-queue-type\' for queue"
        r""" \'~q\' in vhost \'/\': "unsupported queue type \'stream\'"' at queue.declare""",
    )
)
def stream(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True, arguments={"x-queue-type": "stream"}))


@conversation(unless=differs("priorities are accepted, as in 4.x", DECLARED))
def quorum_queue_with_priorities(talk):
    a = talk.channel()
    arguments = {"x-queue-type": "quorum", "x-max-priority": 5}
    a(QueueDeclare(talk.q, durable=True, arguments=arguments))


@conversation(
    unless=reworded(
        "the header comes with redeliveries", (" headers={x-delivery-count: Int64(0)}", "")
    )
)
def quorum_queue_serves_like_any_other(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True, arguments={"x-queue-type": "quorum"}))
    a(QueueDeclare(talk.q, durable=True, arguments={"x-queue-type": "quorum"}))
    a(ConfirmSelect())
    a.publish("", talk.q, b"persistent", delivery_mode=2)
    a.hear_confirms(1)
    a.count(talk.q, 1)
    a(BasicGet(talk.q))
    a(BasicAck(1))
    a(QueueDelete(talk.q))


@conversation
def exclusive_consumer_of_a_single_active_consumer_queue(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, arguments={"x-single-active-consumer": True}))
    a(BasicConsume(talk.q, "tag", exclusive=True))


QUORUM = {
    "exclusive": ({"exclusive": True}, {}),
    "not_durable": ({}, {}),
    "auto_delete": ({"durable": True, "auto_delete": True}, {}),
}


@conversation(each=QUORUM)
def quorum_queue_that_is_refused(talk, options, arguments):
    a = talk.channel()
    a(QueueDeclare(talk.q, **options, arguments={"x-queue-type": "quorum", **arguments}))


INTEGERS = {
    "int8": Int8(5),
    "uint8": UInt8(5),
    "int16": Int16(5),
    "uint16": UInt16(5),
    "int32": 5,
    "uint32": UInt32(5),
    "int64": Int64(5),
    "long_int64": LongInt64(5),
}


@conversation(each=INTEGERS)
def integers_of_any_width_are_equal(talk, value):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True, arguments={"x-max-length": value}))
    a(QueueDeclare(talk.q, exclusive=True, arguments={"x-max-length": 5}))
    a(QueueDeclare(talk.q, exclusive=True, arguments={"x-max-length": Int64(5)}))


DIFFERENT = {
    "ttl_other": ({"x-message-ttl": 100_000}, {"x-message-ttl": 5}),
    "ttl_missing": ({"x-message-ttl": 100_000}, {}),
    "ttl_added": ({}, {"x-message-ttl": 100_000}),
    "expires_other": ({"x-expires": 60_000}, {"x-expires": 60_001}),
    "length_other": ({"x-max-length": 5}, {"x-max-length": 6}),
    "length_missing": ({"x-max-length": 5}, {}),
    "bytes_added": ({}, {"x-max-length-bytes": 5}),
    "overflow_other": ({"x-overflow": "drop-head"}, {"x-overflow": "reject-publish"}),
    "overflow_added": ({}, {"x-overflow": "drop-head"}),
    "dead_letter_other": ({DEAD: "a"}, {DEAD: "b"}),
    "dead_letter_missing": ({DEAD: "a"}, {}),
    "dead_letter_key_other": ({DEAD: "a", DEAD_KEY: "b"}, {DEAD: "a", DEAD_KEY: "c"}),
    "dead_letter_key_added": ({DEAD: "a"}, {DEAD: "a", DEAD_KEY: "c"}),
    "priority_other": ({"x-max-priority": 5}, {"x-max-priority": 6}),
    "priority_added": ({}, {"x-max-priority": 6}),
    "single_active_other": (
        {"x-single-active-consumer": True},
        {"x-single-active-consumer": False},
    ),
    "single_active_missing": ({"x-single-active-consumer": True}, {}),
    "single_active_false_added": ({}, {"x-single-active-consumer": False}),
    "type_classic_added": ({}, {"x-queue-type": "classic"}),
    "type_classic_missing": ({"x-queue-type": "classic"}, {}),
    "type_quorum": ({}, {"x-queue-type": "quorum"}),
    "mode_other": ({"x-queue-mode": "lazy"}, {"x-queue-mode": "default"}),
    "mode_added": ({}, {"x-queue-mode": "lazy"}),
    "version_other": ({"x-queue-version": 2}, {"x-queue-version": 1}),
    "version_added": ({}, {"x-queue-version": 2}),
    "unknown_other": ({"x-of-mine": 1}, {"x-of-mine": 2}),
    "unknown_missing": ({"x-of-mine": 1}, {}),
    "unknown_added": ({}, {"x-of-mine": 1}),
    "two_differ": ({"x-message-ttl": 1, "x-expires": 60_000}, {"x-max-length": 7}),
    "bad_value": ({"x-max-length": 5}, {"x-max-length": "5"}),
}


@conversation(each=DIFFERENT)
def queue_declared_with_other_arguments(talk, first, second):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True, arguments=first))
    a(QueueDeclare(talk.q, durable=True, arguments=second))


@conversation
def plain_fields_are_compared_before_arguments(talk):
    a = talk.channel()
    a(QueueDeclare(talk.q, durable=True, arguments={"x-max-length": 5}))
    a(QueueDeclare(talk.q, durable=False, arguments={"x-max-length": 6}))


CONSUMER = {
    "priority": {"x-priority": 5},
    "priority_negative": {"x-priority": -5},
    "priority_string": {"x-priority": "5"},
    "priority_bool": {"x-priority": True},
    "priority_float": {"x-priority": 5.0},
    "priority_int8": {"x-priority": Int8(5)},
    "priority_huge": {"x-priority": 1 << 62},
    "unknown": {"x-of-mine": 1},
    "cancel_on_failover": {"x-cancel-on-ha-failover": True},
    "cancel_on_failover_string": {"x-cancel-on-ha-failover": "yes"},
    "stream_offset": {"x-stream-offset": "first"},
}


@conversation(each=CONSUMER)
def consumer_argument(talk, arguments):
    a = talk.channel()
    a(QueueDeclare(talk.q, exclusive=True))
    a(BasicConsume(talk.q, "tag", arguments=arguments))
