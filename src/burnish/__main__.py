"""`python -m burnish` is the same as `burnish`."""

from burnish.cli.main import main

if __name__ == "__main__":
    main()
