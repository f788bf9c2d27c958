"""Files that have taken libllama down, files cut and files damaged at random: none may end the process or hang it.

`python -m tests.system.crash --count 10000` runs the whole corpus; the test suite runs a share of it.
"""
