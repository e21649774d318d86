"""Generated stubs of the proto packages `mnemocore.gateway.*`."""
