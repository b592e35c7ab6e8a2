"""The command line, a file for each kind of command. `pipelines/cli.py` puts them together."""
