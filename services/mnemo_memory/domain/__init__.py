"""What memory-core means: spaces, memories, revisions, recall, and the relay to the event log."""
