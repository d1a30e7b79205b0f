"""The command line. `main` finds the command; each command is a function in a file of its own."""
