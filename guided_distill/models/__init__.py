"""Networks, one a file: raw arrays in and out. A config names `guided_distill.models.<name>.Network`."""
