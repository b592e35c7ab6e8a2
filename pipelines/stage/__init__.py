"""The processes around Classy, and the story that is played on them."""
