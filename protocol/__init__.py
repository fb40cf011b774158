"""AMQP 0-9-1 without I/O: bytes in, values out, and back."""
