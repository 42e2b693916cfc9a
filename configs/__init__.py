"""One stage a file, or a chain of them, as deltas on `base.py`: `python main.py --config=configs/<name>.py`."""
