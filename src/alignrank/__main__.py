"""`python -m alignrank`: the same as the `alignrank` command."""

from alignrank.cli import main

if __name__ == "__main__":
    main()
