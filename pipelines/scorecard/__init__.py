"""How well the loop does, measured on worlds whose change was made on purpose.

    album.py    a recipe's photos as canonical pictures, once for each change
    worlds.py   one world: photos dealt to days, labels to delays, a change from a day on
    training.py models of a world: snapshot rows, fit, calibrate, judge, reference
    play.py     the loop in memory, beside "every day", "never" and the hindsight oracle
    measure.py  from played worlds to figures
    drawing.py  the plot

Nothing is decided here: the evidence is `monitoring.watch`'s, the action `monitoring.policy`'s, the verdict on a
contender `monitoring.verdict`'s, as in the steps.
"""
