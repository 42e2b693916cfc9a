"""Text encoders, one a file, found by name: captions -> tokens -> states of all tokens, and an embedding."""
