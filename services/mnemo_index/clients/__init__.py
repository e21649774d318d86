"""The port of the index to the event-bus, over gRPC."""
