"""Generated stubs of the proto package `mnemocore.events.v1`."""
