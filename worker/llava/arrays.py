"""Names for the two kinds of array that pass through this package; it knows no shapes."""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
