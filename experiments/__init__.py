"""One table or figure, or one chain, a file: configs + overrides + expected numbers. `python -m experiments.NAME
--workdir=DIR`."""
