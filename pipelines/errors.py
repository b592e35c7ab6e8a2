"""The one error people see.

Rooms below `pipelines/` may not import this module; they mark their own exceptions for people with a
class attribute `for_people = True`. The CLI prints such an error in one line and exits 1; anything
else is a bug and keeps its traceback.
"""


class ClassyError(Exception):
    """Something a person can mend. The message names the place, the value and the remedy."""

    for_people = True
