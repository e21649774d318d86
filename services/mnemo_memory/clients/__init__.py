"""The ports of memory-core to the index and the event-bus, over gRPC."""
