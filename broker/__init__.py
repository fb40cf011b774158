"""The broker. Its parts and the path of a message are described in README.md beside this file."""

__version__ = "0.1.0"
