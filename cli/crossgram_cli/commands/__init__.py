"""One module per command, each with one click command named `command`."""
