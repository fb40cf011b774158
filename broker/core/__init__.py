"""The state of the broker: plain synchronous objects that know no socket, no file and no clock."""
