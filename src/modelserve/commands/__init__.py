"""The commands that deal with runs: one file for each noun; how they are typed and what they print.

What they do is the SDK's, imported when a command runs, so that help and completion are quick. `--json` prints one JSON
value for scripts; tables, bars and sentences on stderr are for people.
"""
