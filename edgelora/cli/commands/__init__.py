"""The verbs of the command line, a file each, imported when they are used. `root` lists them."""
