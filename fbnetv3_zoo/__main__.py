"""`python -m fbnetv3` is the command line."""

from fbnetv3.cli.app import main

if __name__ == "__main__":
    main()
