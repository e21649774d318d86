"""Generated stubs of the proto package `mnemocore.common.v1`."""
