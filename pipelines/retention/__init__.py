"""What may go: the rules, and where the things lie."""
