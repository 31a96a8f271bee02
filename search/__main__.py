"""`python -m fbnetv3.search` is `fbnetv3-search`."""

from fbnetv3.search.cli.app import main

if __name__ == "__main__":
    main()
