"""The index: finds memories by meaning and by words. A projection that can be rebuilt from the event log."""
