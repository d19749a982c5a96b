"""`python -m mutransfer`."""

from mutransfer.cli import main

if __name__ == "__main__":
    main()
