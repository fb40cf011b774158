"""The codec: one table of methods and their octets drives encoder and decoder."""

import pytest

from leveret.protocol import methods as m
from leveret.protocol.codec import decode_method, encode_method
from leveret.protocol.errors import CommandInvalid, FieldError, FrameError

TABLE = b"\x00\x00\x00\x07\x01aI\x00\x00\x00\x01"
NO_TABLE = bytes(4)

# Class and method id are prefixed; every method of the specification has a line.
CASES = [
    (
        m.ConnectionStart(0, 9, {"a": 1}, "PLAIN AMQPLAIN", "en_US"),
        b"\x00\x09" + TABLE + b"\x00\x00\x00\x0ePLAIN AMQPLAIN\x00\x00\x00\x05en_US",
    ),
    (
        m.ConnectionStartOk({"a": 1}, "PLAIN", b"\x00u\x00p", "en_US"),
        TABLE + b"\x05PLAIN\x00\x00\x00\x04\x00u\x00p\x05en_US",
    ),
    (m.ConnectionSecure(b"\xff?"), b"\x00\x00\x00\x02\xff?"),
    (m.ConnectionSecureOk(b"!"), b"\x00\x00\x00\x01!"),
    (m.ConnectionTune(2047, 131072, 60), b"\x07\xff\x00\x02\x00\x00\x00\x3c"),
    (m.ConnectionTuneOk(1, 4096, 0), b"\x00\x01\x00\x00\x10\x00\x00\x00"),
    (m.ConnectionOpen("/é"), b"\x03/\xc3\xa9\x00\x00"),
    (m.ConnectionOpenOk(), b"\x00"),
    (m.ConnectionClose(404, "gone", 50, 10), b"\x01\x94\x04gone\x00\x32\x00\x0a"),
    (m.ConnectionCloseOk(), b""),
    (m.ConnectionBlocked("low on disk"), b"\x0blow on disk"),
    (m.ConnectionUnblocked(), b""),
    (m.ConnectionUpdateSecret(b"new", "old"), b"\x00\x00\x00\x03new\x03old"),
    (m.ConnectionUpdateSecretOk(), b""),
    (m.ChannelOpen(), b"\x00"),
    (m.ChannelOpenOk(), b"\x00\x00\x00\x00"),
    (m.ChannelFlow(False), b"\x00"),
    (m.ChannelFlowOk(True), b"\x01"),
    (m.ChannelClose(200, "bye", 0, 0), b"\x00\xc8\x03bye\x00\x00\x00\x00"),
    (m.ChannelCloseOk(), b""),
    (m.AccessRequest("/r", exclusive=True, passive=False, read=False), b"\x02/r\x0d"),
    (m.AccessRequestOk(1), b"\x00\x01"),
    (
        m.ExchangeDeclare("x", "topic", durable=True, internal=True, arguments={"a": 1}),
        b"\x00\x00\x01x\x05topic\x0a" + TABLE,
    ),
    (m.ExchangeDeclareOk(), b""),
    (m.ExchangeDelete("x", if_unused=True), b"\x00\x00\x01x\x01"),
    (m.ExchangeDeleteOk(), b""),
    (m.ExchangeBind("d", "s", "k", no_wait=True), b"\x00\x00\x01d\x01s\x01k\x01" + NO_TABLE),
    (m.ExchangeBindOk(), b""),
    (m.ExchangeUnbind("d", "s", "k"), b"\x00\x00\x01d\x01s\x01k\x00" + NO_TABLE),
    (m.ExchangeUnbindOk(), b""),
    (m.QueueDeclare("q", exclusive=True, no_wait=True), b"\x00\x00\x01q\x14" + NO_TABLE),
    (m.QueueDeclare(passive=True, auto_delete=True), b"\x00\x00\x00\x09" + NO_TABLE),
    (m.QueueDeclareOk("q", 1, 2), b"\x01q\x00\x00\x00\x01\x00\x00\x00\x02"),
    (m.QueueBind("q", "x", "k", arguments={"a": 1}), b"\x00\x00\x01q\x01x\x01k\x00" + TABLE),
    (m.QueueBindOk(), b""),
    (m.QueuePurge("q"), b"\x00\x00\x01q\x00"),
    (m.QueuePurgeOk(7), b"\x00\x00\x00\x07"),
    (m.QueueDelete("q", if_empty=True, no_wait=True), b"\x00\x00\x01q\x06"),
    (m.QueueDeleteOk(7), b"\x00\x00\x00\x07"),
    (m.QueueUnbind("q", "x", "k"), b"\x00\x00\x01q\x01x\x01k" + NO_TABLE),
    (m.QueueUnbindOk(), b""),
    (m.BasicQos(0, 10, True), b"\x00\x00\x00\x00\x00\x0a\x01"),
    (m.BasicQosOk(), b""),
    (m.BasicConsume("q", "t", no_ack=True), b"\x00\x00\x01q\x01t\x02" + NO_TABLE),
    (m.BasicConsumeOk("t"), b"\x01t"),
    (m.BasicCancel("t", True), b"\x01t\x01"),
    (m.BasicCancelOk("t"), b"\x01t"),
    (m.BasicPublish("x", "k", mandatory=True), b"\x00\x00\x01x\x01k\x01"),
    (m.BasicPublish("x", "k", immediate=True), b"\x00\x00\x01x\x01k\x02"),
    (m.BasicReturn(312, "NO_ROUTE", "x", "k"), b"\x01\x38\x08NO_ROUTE\x01x\x01k"),
    (
        m.BasicDeliver("t", 1, True, "x", "k"),
        b"\x01t\x00\x00\x00\x00\x00\x00\x00\x01\x01\x01x\x01k",
    ),
    (m.BasicGet("q", True), b"\x00\x00\x01q\x01"),
    (m.BasicGetOk(1, False, "", "k", 9), bytes(7) + b"\x01\x00\x00\x01k\x00\x00\x00\x09"),
    (m.BasicGetEmpty(), b"\x00"),
    (m.BasicAck((1 << 64) - 1, True), b"\xff" * 8 + b"\x01"),
    (m.BasicReject(1, False), bytes(7) + b"\x01\x00"),
    (m.BasicRecoverAsync(True), b"\x01"),
    (m.BasicRecover(True), b"\x01"),
    (m.BasicRecoverOk(), b""),
    (m.BasicNack(1, True, False), bytes(7) + b"\x01\x01"),
    (m.ConfirmSelect(True), b"\x01"),
    (m.ConfirmSelectOk(), b""),
    (m.TxSelect(), b""),
    (m.TxSelectOk(), b""),
    (m.TxCommit(), b""),
    (m.TxCommitOk(), b""),
    (m.TxRollback(), b""),
    (m.TxRollbackOk(), b""),
]
PAYLOADS = [
    (case, case.class_id.to_bytes(2) + case.method_id.to_bytes(2) + octets)
    for case, octets in CASES
]


def test_every_method_has_a_case():
    assert set(m.BY_ID.values()) == {type(case) for case, _ in CASES}


@pytest.mark.parametrize(("method", "payload"), PAYLOADS)
def test_a_method_is_encoded_and_decoded(method, payload):
    assert payload == encode_method(method)
    decoded = decode_method(payload)
    assert method == decoded
    assert type(method) is type(decoded)


@pytest.mark.parametrize(("method", "payload"), PAYLOADS)
def test_a_payload_cut_or_followed_by_anything_is_a_501_with_its_ids(method, payload):
    for malformed in [payload[:end] for end in range(4, len(payload))] + [payload + b"\x00"]:
        with pytest.raises(FrameError, match=r"cannot decode|Malformed") as caught:
            decode_method(malformed)

        assert (method.class_id, method.method_id) == (
            caught.value.class_id,
            caught.value.method_id,
        )


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x00\x0a\x00"])
def test_a_payload_without_a_whole_method_id_is_a_501(payload):
    """RabbitMQ 3.10.8 answers so, too."""
    with pytest.raises(FrameError, match="cannot decode"):
        decode_method(payload)


@pytest.mark.parametrize("payload", [b"\x00\x0a\x00\x63", b"\xff" * 9])
def test_an_unknown_method_is_a_503(payload):
    with pytest.raises(CommandInvalid, match="unknown method"):
        decode_method(payload)


def test_a_short_string_that_is_no_utf8_is_refused_in_rabbitmqs_words():
    with pytest.raises(FrameError) as caught:
        decode_method(b"\x00\x32\x00\x1e\x00\x00\x01\xff\x00")

    assert caught.value.reply_text == "FRAME_ERROR - Malformed UTF-8 in shortstr"
    assert (caught.value.class_id, caught.value.method_id) == (50, 30)


def test_a_table_in_arguments_that_cannot_be_decoded_is_located():
    with pytest.raises(FrameError, match="unknown type tag 63") as caught:
        decode_method(b"\x00\x32\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x03\x01a?")

    assert (caught.value.class_id, caught.value.method_id) == (50, 10)


def test_the_octets_that_cannot_be_decoded_are_shown_up_to_a_limit():
    with pytest.raises(FrameError) as caught:
        decode_method(b"\x00\x5a\x00\x0a" + b"\x07" * 1000)

    assert caught.value.reply_text.startswith("FRAME_ERROR - cannot decode <<7,7,7,")
    assert len(caught.value.reply_text) <= 255


@pytest.mark.parametrize(
    "method",
    [
        m.QueueDeclare("q" * 256),
        m.BasicAck(1 << 64),
        m.BasicAck(-1),
        m.BasicQos(0, 65536),
        m.QueueDeclareOk("q", None),
        m.QueueDeclare("q", arguments={"a": object()}),
        m.ConnectionStart(256, 0, {}),
        m.QueueDeclare("\ud800"),
    ],
)
def test_a_value_that_does_not_fit_its_field_is_a_502(method):
    with pytest.raises(FieldError):
        encode_method(method)


def test_unused_bits_of_an_octet_are_ignored():
    assert m.BasicPublish("", "", True, False) == decode_method(
        b"\x00\x3c\x00\x28" + b"\x00" * 4 + b"\xfd"
    )


def test_methods_know_their_names_replies_and_contents():
    assert m.QueueDeclareOk.name == "queue.declare-ok"
    assert m.BasicRecoverAsync.name == "basic.recover-async"
    assert (m.BasicGetOk, m.BasicGetEmpty) == m.BasicGet.replies
    assert m.BasicPublish.replies == ()
    assert m.BasicPublish.has_content
    assert not m.BasicAck.has_content
    assert isinstance(m.TxSelect(), m.Method)


def test_clients_share_what_they_say_alike_of_themselves_but_neither_arguments_nor_secrets():
    ann = m.ConnectionStartOk({"product": "shared"}, "PLAIN", b"\0ann\0one", "en_US")
    bob = ann._replace(response=b"\0bob\0two")
    declare = m.QueueDeclare("q", arguments={"product": "shared"})

    one, two = decode_method(encode_method(ann)), decode_method(encode_method(bob))
    first, second = decode_method(encode_method(declare)), decode_method(encode_method(declare))

    assert (ann, bob) == (one, two)
    assert one.client_properties is two.client_properties
    assert first.arguments is not second.arguments
    assert first.arguments is not one.client_properties
