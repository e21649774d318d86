"""Generated stubs of the proto package `mnemocore.memory.v1`."""
