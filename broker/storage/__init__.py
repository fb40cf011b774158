"""The place of the journal, the only part that will know a disk. Empty: messages are in memory."""
