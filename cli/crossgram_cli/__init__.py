"""The crossgram commands: parse, call the library, show progress, print."""
