"""`python -m edgelora`: the same command line."""

from edgelora.cli import main

if __name__ == "__main__":
    main()
