"""What the subcommands of `got` do; each module is imported when its subcommand is called."""
