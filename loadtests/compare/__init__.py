"""`make compare`: one model, picture, work and answer on Vitrine, its peers and a plain loop, in one run."""
