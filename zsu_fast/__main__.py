"""`python -m zsu_fast`: the command line."""

from zsu_fast.cli import main

if __name__ == "__main__":
    main()
