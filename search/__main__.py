"""`python -m fbnetv3.search` is `fbnetv3-search`."""

from .cli import main

if __name__ == "__main__":
    main()
