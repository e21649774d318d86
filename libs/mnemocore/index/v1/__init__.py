"""Generated stubs of the proto package `mnemocore.index.v1`."""
