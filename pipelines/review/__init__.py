"""What a reviewer is shown, and what a reviewer answers."""
