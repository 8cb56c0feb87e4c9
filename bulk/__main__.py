"""`python -m bulk`: the command of `vitrine score`, without the rest of the command line; the image has it so."""

from bulk.command import score

if __name__ == "__main__":
    score(prog_name="python -m bulk")
