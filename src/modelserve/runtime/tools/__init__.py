"""How models write tool calls, one file per format, and how the calls are read out of their text."""
