"""Codec: methods to octets and back.

Law: how a method looks follows from its layout in `methods` and from nothing else. Each method
gets one encode and one decode function, compiled from that layout the first time it is used, so
that starting costs nothing and using costs no more than a function written by hand.

A payload must hold its arguments exactly: what is cut short or followed by anything is refused
with the octets in the text, as RabbitMQ does (`rabbit_misc:frame_error`).

Called by: reader, writer, content.
"""

from collections.abc import Callable, Iterator
from itertools import groupby
from struct import error
from typing import NamedTuple, cast

from leveret.protocol.errors import CommandInvalid, FieldError, FrameError
from leveret.protocol.methods import BY_ID, ConnectionStartOk, Method
from leveret.protocol.table import decode_shared, decode_table, encode_table
from leveret.protocol.wire import (
    LONG,
    LONGLONG,
    MALFORMED_SHORTSTR,
    SHORT,
    Wire,
    encode_longstr,
    encode_shortstr,
)

SHOWN_OCTETS = 60  # of a payload that cannot be decoded: what fits into a reply text

Decode = Callable[[bytes], Method]
Encode = Callable[[Method], bytes]

_decoders: dict[bytes, Decode] = {}
_encoders: dict[type[Method], Encode] = {}


def decode_method(payload: bytes) -> Method:
    """Return the method in the payload of a method frame.

    Raises:
      CommandInvalid: There is no such method.
      FrameError: The arguments cannot be decoded.
    """
    decode = _decoders.get(payload[:4])
    if decode is None:
        decode = _compile_decoder(payload)
    try:
        return decode(payload)
    except UnicodeDecodeError:
        problem = FrameError(MALFORMED_SHORTSTR)
        problem.blames_method = False
    except FrameError as refused:  # by a table
        problem = refused
    except IndexError:
        problem = _undecodable(payload[4:])
    problem.class_id = int.from_bytes(payload[:2])
    problem.method_id = int.from_bytes(payload[2:4])
    raise problem from None


def encode_method(method: Method) -> bytes:
    """Return the payload of a method frame: class id, method id, arguments.

    Raises:
      FieldError: A value does not fit into its field.
    """
    encode = _encoders.get(type(method))
    if encode is None:
        encode = _compile_encoder(type(method))
    try:
        return encode(method)
    except (error, TypeError, ValueError) as problem:
        raise FieldError(f"cannot encode {method.name}: {problem}") from None


def _undecodable(arguments: bytes) -> FrameError:
    octets = ",".join(map(str, arguments[:SHOWN_OCTETS]))
    more = ",..." if len(arguments) > SHOWN_OCTETS else ""
    return FrameError(f"cannot decode <<{octets}{more}>>")


# Compilation. The field of index i is the variable `f{i}`; bits in a row share octets.


class _Item(NamedTuple):
    """What stands in the payload: one field, or up to eight bits; `None` is a reserved one."""

    wire: Wire
    fields: tuple[int | None, ...]


def _items(method: type[Method]) -> Iterator[_Item]:
    index = 0
    numbered: list[tuple[Wire, int | None]] = []
    for name, wire in method.layout:
        numbered.append((wire, index if name else None))
        index += bool(name)
    for wire, group in groupby(numbered, key=lambda pair: pair[0]):
        fields = [field for _, field in group]
        step = 8 if wire is Wire.BIT else 1
        for start in range(0, len(fields), step):
            yield _Item(wire, tuple(fields[start : start + step]))


def _names(method: type[Method]) -> str:
    return "".join(f"f{i}, " for i in range(sum(1 for name, _ in method.layout if name)))


def _compile(source: str, name: str, **names: object) -> object:
    exec(compile(source, f"<{name}>", "exec"), names)
    return names["function"]


# Clients of one kind say the same of themselves; tables of other methods are their receiver's own.
_SHARED = {ConnectionStartOk}
_FIXED_SIZES = {Wire.BIT: 1, Wire.OCTET: 1, Wire.SHORT: 2, Wire.LONG: 4, Wire.LONGLONG: 8}


def _compile_decoder(payload: bytes) -> Decode:
    class_id, method_id = int.from_bytes(payload[:2]), int.from_bytes(payload[2:4])
    method = BY_ID.get((class_id, method_id)) if len(payload) >= 4 else None
    if len(payload) < 4:
        raise _undecodable(payload)
    if method is None:
        raise CommandInvalid(f"unknown method {class_id},{method_id}", class_id, method_id)
    lines: list[str] = []
    base, fixed = "", 4  # the offset of the next item: a variable and a number
    for number, item in enumerate(_items(method)):
        at = f"{base}{fixed}"
        size = _FIXED_SIZES.get(item.wire)
        if size is None:
            end = f"e{number}"
            lines += _decode_variable(item, base, fixed, end)
            base, fixed = f"{end} + ", 0
        else:
            lines += _decode_fixed(item, at, f"{base}{fixed + size}")
            fixed += size
    lines.append(f"if {base}{fixed} != len(p): raise IndexError")
    lines.append(f"return new(method, ({_names(method)}))")
    function = cast(
        Decode,
        _compile(
            "def function(p):\n    " + "\n    ".join(lines),
            f"decode {method.name}",
            method=method,
            new=tuple.__new__,
            number=int.from_bytes,
            decode_table=decode_shared if method in _SHARED else decode_table,
        ),
    )
    _decoders[payload[:4]] = function
    return function


def _decode_fixed(item: _Item, at: str, end: str) -> list[str]:
    if item.wire is Wire.BIT:
        lines = [f"bits = p[{at}]"]
        named = [(bit, field) for bit, field in enumerate(item.fields) if field is not None]
        return lines + [f"f{field} = bits & {1 << bit} != 0" for bit, field in named]
    if item.fields[0] is None:
        return []
    value = f"p[{at}]" if item.wire is Wire.OCTET else f"number(p[{at}:{end}])"
    return [f"f{item.fields[0]} = {value}"]


def _decode_variable(item: _Item, base: str, fixed: int, end: str) -> list[str]:
    name = "_" if item.fields[0] is None else f"f{item.fields[0]}"
    if item.wire is Wire.TABLE:
        return [f"{name}, {end} = decode_table(p, {base}{fixed})"]
    if item.wire is Wire.SHORTSTR:
        start = f"{base}{fixed + 1}"
        lines = [f"{end} = {start} + p[{base}{fixed}]"]
    else:
        start = f"{base}{fixed + 4}"
        lines = [f"{end} = {start} + number(p[{base}{fixed}:{start}])"]
    if item.fields[0] is None:
        return lines
    decode = {Wire.SHORTSTR: ".decode()", Wire.LONGTEXT: ".decode('utf-8', 'replace')"}
    return [*lines, f"{name} = p[{start}:{end}]{decode.get(item.wire, '')}"]


_ENCODERS: dict[Wire, Callable[..., bytes]] = {
    Wire.OCTET: lambda value: bytes((value,)),
    Wire.SHORT: SHORT.pack,
    Wire.LONG: LONG.pack,
    Wire.LONGLONG: LONGLONG.pack,
    Wire.SHORTSTR: encode_shortstr,
    Wire.LONGSTR: encode_longstr,
    Wire.LONGTEXT: encode_longstr,
    Wire.TABLE: encode_table,
}
_RESERVED = {Wire.BIT: 1, Wire.SHORT: 2, Wire.SHORTSTR: 1, Wire.LONGSTR: 4}  # zero octets


def _compile_encoder(method: type[Method]) -> Encode:
    parts: list[bytes | str] = [SHORT.pack(method.class_id) + SHORT.pack(method.method_id)]
    for item in _items(method):
        if item.wire is not Wire.BIT and item.fields[0] is not None:
            parts.append(f"{item.wire.value}(f{item.fields[0]})")
        elif any(field is not None for field in item.fields):
            parts.append(_encode_bits(item))
        else:
            parts.append(bytes(_RESERVED[item.wire]))
    # neighbouring constants become one
    expression = " + ".join(
        repr(b"".join(cast(list[bytes], list(group)))) if constant else " + ".join(map(str, group))
        for constant, group in groupby(parts, key=lambda part: isinstance(part, bytes))
    )
    names = _names(method)
    unpack = f"{names}= m\n    " if names else ""
    function = cast(
        Encode,
        _compile(
            f"def function(m):\n    {unpack}return {expression}",
            f"encode {method.name}",
            OCTETS=[bytes((octet,)) for octet in range(256)],
            **{wire.value: encode for wire, encode in _ENCODERS.items()},
        ),
    )
    _encoders[method] = function
    return function


def _encode_bits(item: _Item) -> str:
    values = [
        f"({1 << bit} if f{field} else 0)"
        for bit, field in enumerate(item.fields)
        if field is not None
    ]
    return f"OCTETS[{' | '.join(values)}]"
