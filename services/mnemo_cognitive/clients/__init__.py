"""The ports of cognitive to memory-core and the index, over gRPC."""
