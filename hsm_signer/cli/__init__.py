"""The command line: arguments, prompts, output and exit status of each command."""
