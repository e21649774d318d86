"""How the memories of a space are ranked against a question. No wire, no disk."""
