"""Generated stubs of the proto package `mnemocore.cognitive.v1`."""
