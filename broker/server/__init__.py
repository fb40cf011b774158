"""The edges: sockets, time and memory. The only tasks a message passes."""
