"""Plans and sweeps as people meet them: in the terminal, as pages, as files."""
