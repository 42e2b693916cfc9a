"""Blocks that networks share: embeddings, residual blocks, attention."""
