"""`python -m adabatch`, also under torchrun."""

from adabatch.lab.cli import main

if __name__ == "__main__":
    main()
