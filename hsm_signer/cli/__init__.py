"""The command line: parse, prompt, print, exit status. What is done stands in the rooms below."""
