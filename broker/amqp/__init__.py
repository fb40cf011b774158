"""AMQP 0-9-1 on top of the core: sessions, channels, one handler a method; no I/O."""
