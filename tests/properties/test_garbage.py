"""Whatever a peer sends gives a value or an `AMQPError`, and never anything else."""

from contextlib import suppress
from decimal import Decimal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from leveret.protocol import properties, sasl, uri
from leveret.protocol.codec import decode_method, encode_method
from leveret.protocol.connection import Connection
from leveret.protocol.constants import PROTOCOL_HEADER
from leveret.protocol.errors import AMQPError
from leveret.protocol.handshake import Role
from leveret.protocol.methods import BY_ID
from leveret.protocol.table import DECODERS, decode_table, encode_table
from tests.support.pair import ConnectionPair

FEW = settings(max_examples=100, deadline=None)

tags = st.sampled_from([bytes((tag,)) for tag in DECODERS])
sizes = st.integers(0, 40).map(lambda size: size.to_bytes(4))
table_octets = st.lists(st.one_of(tags, sizes, st.binary(max_size=8)), max_size=30).map(b"".join)

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20)
    | st.decimals(0, 1000, places=3, allow_nan=False).map(Decimal),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
tables = st.dictionaries(names, values, max_size=5)


@FEW
@given(tables)
def test_a_table_of_plain_values_comes_back(table):
    data = encode_table(table)

    assert (table, len(data)) == decode_table(data)


@FEW
@given(st.one_of(st.binary(max_size=200), table_octets))
def test_a_garbage_table_gives_a_value_or_an_amqp_error(octets):
    for data in (octets, len(octets).to_bytes(4) + octets):
        with suppress(AMQPError):
            table, end = decode_table(data)
            assert end <= len(data)
            encode_table(table)


@FEW
@given(st.sampled_from(sorted(BY_ID)), st.one_of(st.binary(max_size=80), table_octets))
def test_garbage_arguments_give_a_method_or_an_amqp_error(ids, octets):
    with suppress(AMQPError):
        method = decode_method(ids[0].to_bytes(2) + ids[1].to_bytes(2) + octets)
        assert method == decode_method(encode_method(method))


@FEW
@given(st.binary(max_size=60))
def test_a_garbage_payload_gives_a_method_or_an_amqp_error(payload):
    with suppress(AMQPError):
        decode_method(payload)


@FEW
@given(st.integers(0, 65535), st.one_of(st.binary(max_size=80), table_octets))
def test_a_garbage_header_gives_properties_or_an_amqp_error(flags, octets):
    header = b"\x00\x3c" + bytes(10) + flags.to_bytes(2) + octets
    for change in (
        properties.decode,
        lambda header: properties.with_headers(header, {"a": 1}),
        lambda header: properties.splice_headers(header, (b"a",), keeps_expiration=False),
        properties.split_headers,
    ):
        with suppress(AMQPError):
            change(header)


@FEW
@given(st.binary(max_size=60))
def test_a_garbage_response_gives_credentials_or_an_amqp_error(response):
    for parse in (sasl.parse_plain, sasl.parse_amqplain, sasl.parse_external):
        with suppress(AMQPError):
            parse(response)


@FEW
@given(st.one_of(st.text(), st.text().map(lambda text: "amqp://" + text)))
@example("amqp://[")
@example("amqp://h?a=%ff")
def test_a_garbage_uri_gives_parameters_or_an_invalid_uri(text):
    with suppress(uri.InvalidURI):
        parameters = uri.parse(text)
        assert parameters == uri.parse(uri.to_uri(parameters))


frames = st.builds(
    lambda kind, channel, payload, size, end: (
        bytes((kind,)) + channel.to_bytes(2) + (len(payload) + size).to_bytes(4) + payload + end
    ),
    st.sampled_from([1, 1, 1, 2, 3, 8, 0, 255]),
    st.integers(0, 2),
    st.one_of(
        st.binary(max_size=30),
        st.builds(
            lambda ids, octets: ids[0].to_bytes(2) + ids[1].to_bytes(2) + octets,
            st.sampled_from(sorted(BY_ID)),
            st.binary(max_size=20),
        ),
    ),
    st.sampled_from([0, 0, 0, 0, 1]),
    st.sampled_from([b"\xce", b"\xce", b"\xce", b"\x00"]),
)


def feed(connection, chunks):
    for chunk in chunks:
        commands = connection.receive_data(chunk)
        errors = [command for _, command in commands if isinstance(command, AMQPError)]
        assert len(errors) <= 1
        if errors:
            assert commands[-1][1] is errors[0]
            return


@FEW
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_garbage_from_a_stranger_gives_commands_and_at_most_one_error(chunks):
    for role in Role:
        feed(Connection(role), chunks)
    feed(Connection(Role.SERVER), [PROTOCOL_HEADER, *chunks])


@FEW
@given(st.lists(frames, max_size=8))
def test_garbage_frames_give_commands_and_at_most_one_error(chunks):
    feed(ConnectionPair().open().server, chunks)
    feed(ConnectionPair().open().client, chunks)
