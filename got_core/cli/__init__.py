"""The `got` command: one module a command."""
