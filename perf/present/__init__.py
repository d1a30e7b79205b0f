"""A run for the eye: tables on the terminal, plots as files."""
