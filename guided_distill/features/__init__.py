"""What a metric sees of an image, one feature function a file, found by name.

Every module has `make(...) -> Features`, which takes the path of its weights where it has any, and `NAME`,
the suffix of the metrics printed on it ("FD-pixels").
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float64

Features = Callable[[Float[np.ndarray, "n ..."]], Float64[np.ndarray, "n d"]]  # images in [-1, 1] -> features
