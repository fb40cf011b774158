"""Constants: frame types, limits and property flags.

Law: a number of the protocol is written here once, and a limit names its precedent.

Called by: everything that reads or writes frames.
"""

from typing import Final

# Specification 4.2.2: "AMQP", 0, major, minor, revision.
PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
# The header of 0-9 proper; RabbitMQ serves it as 0-9-1 (rabbit_reader, handshake).
PROTOCOL_HEADER_0_9: Final = b"AMQP\x01\x01\x00\x09"
VERSION: Final = (0, 9)  # what connection.start says for 0-9-1

# Specification 4.2.3: type (1), channel (2), size (4), payload, end octet.
FRAME_METHOD: Final = 1
FRAME_HEADER: Final = 2
FRAME_BODY: Final = 3
FRAME_HEARTBEAT: Final = 8
FRAME_END: Final = 0xCE
FRAME_OVERHEAD: Final = 8  # seven octets before the payload, one after it

# Specification 4.2.3 "frame-min-size". RabbitMQ 4.1 raised its own to 8192; older clients use 4096.
FRAME_MIN: Final = 4096
# RabbitMQ's default; larger frames gain nothing measurable and delay the other channels.
DEFAULT_FRAME_MAX: Final = 131072
# RabbitMQ accepts payloads up to frame_max itself, forgetting the overhead: clients rely on it.
# RabbitMQ since 3.7.5.
DEFAULT_CHANNEL_MAX: Final = 2047
# Seconds; RabbitMQ since 3.5.5. Timers of routers and proxies are seldom shorter.
DEFAULT_HEARTBEAT: Final = 60
# The largest body RabbitMQ ever accepted since 3.8 (512 MiB), whatever is configured.
MAX_BODY_SIZE: Final = 512 * 1024 * 1024
# RabbitMQ's default max_message_size up to 3.13 (128 MiB; 4.x has 16 MiB).
DEFAULT_MAX_MESSAGE_SIZE: Final = 128 * 1024 * 1024
# Nested tables and arrays. RabbitMQ has no limit; x-death and the brokers' own tables need four.
MAX_TABLE_DEPTH: Final = 128

# Specification 4.2.6.1, high bit first; bit 1 is unused and bit 0 says another word follows.
HAS_CONTENT_TYPE: Final = 1 << 15
HAS_CONTENT_ENCODING: Final = 1 << 14
HAS_HEADERS: Final = 1 << 13
HAS_DELIVERY_MODE: Final = 1 << 12
HAS_PRIORITY: Final = 1 << 11
HAS_CORRELATION_ID: Final = 1 << 10
HAS_REPLY_TO: Final = 1 << 9
HAS_EXPIRATION: Final = 1 << 8
HAS_MESSAGE_ID: Final = 1 << 7
HAS_TIMESTAMP: Final = 1 << 6
HAS_TYPE: Final = 1 << 5
HAS_USER_ID: Final = 1 << 4
HAS_APP_ID: Final = 1 << 3
HAS_CLUSTER_ID: Final = 1 << 2
HAS_MORE_FLAGS: Final = 1 << 0

# Specification 1.8.3.4 (delivery-mode).
TRANSIENT: Final = 1
PERSISTENT: Final = 2

BASIC_CLASS_ID: Final = 60
NO_ROUTE: Final = 312  # of basic.return; not an error

TEN_YEARS_MS: Final = 315_360_000_000  # RabbitMQ's limit of every time
