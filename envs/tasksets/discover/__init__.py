"""How a package is installed and tested, read from its own files; nothing of it is run.

`declarations` reads what the files say, `discovery` makes a `Recipe` of it.
"""
