"""`torchrun -m fbnetv3.search.cli_train` is `fbnetv3 train` in each process."""

from fbnetv3.search.cli.train import main

if __name__ == "__main__":
    main()
