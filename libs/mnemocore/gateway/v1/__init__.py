"""Generated stubs of the proto package `mnemocore.gateway.v1`."""
