"""The Lua scripts of event-bus, one file a step that Redis takes as a whole."""
