"""Errors: what ends a channel or a connection, one class a reply code.

Law: whatever a peer sends yields a value or an `AMQPError`, nothing else. A `ChannelException`
ends one channel, a `ConnectionException` the connection; on channel 0 every error does. Raise
the leaf where the fact is known, with the explanation only: the name is added in `reply_text`.

Called by: everything. Only the broker's session and the client turn errors into close methods.
"""

from typing import ClassVar

REPLY_TEXT_LIMIT = 255  # a short string holds no more (specification 4.2.5.3)


class AMQPError(Exception):
    """A failure with a reply code of the specification.

    Attributes:
      code: The reply code, such as 404.
      name: The specification's name of the code, such as NOT_FOUND.
      text: The explanation, without the name.
      class_id: Class of the method that failed, 0 when none did.
      method_id: The method that failed, 0 when none did.
      blames_method: Whether the close method names the method that failed.
    """

    blames_method = True

    code: ClassVar[int] = 541
    name: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(self, text: str, class_id: int = 0, method_id: int = 0) -> None:
        super().__init__(text)
        self.text = text
        self.class_id = class_id
        self.method_id = method_id

    @property
    def reply_text(self) -> str:
        """The text of the close method: "NAME - explanation", cut as RabbitMQ does, or "NAME"."""
        encoded = (f"{self.name} - {self.text}" if self.text else self.name).encode(
            "utf-8", "replace"
        )
        if len(encoded) <= REPLY_TEXT_LIMIT:
            return encoded.decode()
        return encoded[: REPLY_TEXT_LIMIT - 3].decode("utf-8", "ignore") + "..."

    def __str__(self) -> str:
        return f"{self.code} {self.name} - {self.text}"


class ChannelException(AMQPError):
    """Ends the channel (a soft error)."""


class ConnectionException(AMQPError):
    """Ends the connection (a hard error)."""


class ContentTooLarge(ChannelException):
    """A message is larger than the receiver accepts now."""

    code, name = 311, "CONTENT_TOO_LARGE"


class NoConsumers(ChannelException):
    """An immediate message found no consumer."""

    code, name = 313, "NO_CONSUMERS"


class AccessRefused(ChannelException):
    """The user lacks a permission, or the name is reserved."""

    code, name = 403, "ACCESS_REFUSED"


class NotFound(ChannelException):
    """The queue or exchange does not exist."""

    code, name = 404, "NOT_FOUND"


class ResourceLocked(ChannelException):
    """The queue belongs to another connection."""

    code, name = 405, "RESOURCE_LOCKED"


class PreconditionFailed(ChannelException):
    """A condition of the request does not hold: other arguments, unknown tag, in use."""

    code, name = 406, "PRECONDITION_FAILED"


class ConnectionForced(ConnectionException):
    """An operator or a shutdown ends the connection."""

    code, name = 320, "CONNECTION_FORCED"


class InvalidPath(ConnectionException):
    """The virtual host is not known."""

    code, name = 402, "INVALID_PATH"


class FrameError(ConnectionException):
    """Bytes that are no frame, or arguments that cannot be decoded."""

    code, name = 501, "FRAME_ERROR"


class FieldError(ConnectionException):
    """A field holds an illegal value (SYNTAX_ERROR: renamed, the built-in has the name)."""

    code, name = 502, "SYNTAX_ERROR"


class CommandInvalid(ConnectionException):
    """A method that does not exist, is not served, or is out of order."""

    code, name = 503, "COMMAND_INVALID"


class ChannelNotOpen(ConnectionException):
    """A method on a channel that is not open (CHANNEL_ERROR: renamed, it is no soft error)."""

    code, name = 504, "CHANNEL_ERROR"


class UnexpectedFrame(ConnectionException):
    """A well-formed frame where another kind was due."""

    code, name = 505, "UNEXPECTED_FRAME"


class ResourceError(ConnectionException):
    """The server lacks the resources to go on."""

    code, name = 506, "RESOURCE_ERROR"


class NotAllowed(ConnectionException):
    """The peer tried what its settings or the negotiation forbid."""

    code, name = 530, "NOT_ALLOWED"


class Unsupported(ConnectionException):
    """Legal AMQP that is not served (NOT_IMPLEMENTED: renamed, the built-in has the name)."""

    code, name = 540, "NOT_IMPLEMENTED"


class InternalError(ConnectionException):
    """A mistake of ours."""

    code, name = 541, "INTERNAL_ERROR"


BY_CODE: dict[int, type[AMQPError]] = {
    leaf.code: leaf
    for branch in (ChannelException, ConnectionException)
    for leaf in branch.__subclasses__()
}


def from_reply(code: int, reply_text: str, class_id: int = 0, method_id: int = 0) -> AMQPError:
    """Return the error a received close method stands for.

    Unknown codes become `InternalError`, with the code kept in the text.
    """
    leaf = BY_CODE.get(code)
    if leaf is None:
        return InternalError(f"{code} {reply_text}", class_id, method_id)
    return leaf(reply_text.removeprefix(f"{leaf.name} - "), class_id, method_id)
