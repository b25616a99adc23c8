"""The command line: argument parsing only; every command calls a library function."""
