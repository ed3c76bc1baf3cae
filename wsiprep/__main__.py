"""`python -m wsiprep`."""

from wsiprep.cli.main import main

if __name__ == "__main__":
    main()
