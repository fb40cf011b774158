"""Blind copies: the keys of BCC are kept with a message, and nobody is told of them."""

import pytest

from leveret.broker.core.message import BlindEnvelope, stored_envelope
from leveret.protocol.codec import encode_method
from leveret.protocol.content import Envelope
from leveret.protocol.methods import BasicPublish

PUBLISH = BasicPublish("x", "k", mandatory=True)
PLAIN = Envelope(PUBLISH, 3, encode_method(PUBLISH))


@pytest.mark.parametrize("copies", [("a",), ("a", "", "é" * 100), ("b",) * 1000])
def test_blind_copies_are_there_again_in_what_was_kept(copies):
    kept = stored_envelope(BlindEnvelope.of(PLAIN, copies).payload)

    assert isinstance(kept, BlindEnvelope)
    assert copies == kept.copies
    assert PUBLISH == kept.method


def test_deliveries_say_nothing_of_blind_copies():
    blind = BlindEnvelope.of(PLAIN, ("secret",))

    assert PLAIN.address == blind.address
    assert PLAIN.readdress == blind.readdress
    assert PLAIN.address == stored_envelope(blind.payload).address


def test_without_blind_copies_an_envelope_stays_as_it_is():
    assert BlindEnvelope.of(PLAIN, ()) is PLAIN
    assert type(stored_envelope(PLAIN.payload)) is Envelope


def test_more_blind_copies_than_can_be_kept_are_not_kept():
    assert BlindEnvelope.of(PLAIN, ("x" * 255,) * 256) is PLAIN
