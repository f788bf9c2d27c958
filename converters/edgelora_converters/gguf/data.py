"""Writing tensor data into an open GGUFWriter without losing a full disk's error. Owns no layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gguf import GGUFWriter


def write_tensor(writer: GGUFWriter, tensor: NDArray[Any]) -> None:
    """Write the next tensor's bytes and padding, in place of `writer.write_tensor_data`. Raises OSError.

    That method ends in ndarray.tofile, which drops the error of its last, buffered bytes: on a full disk a small tensor
    is gone and nothing says so.
    """
    if not writer.fout:
        raise ValueError("the writer's header has not been written")
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    file.write(np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).data)
    writer.write_padding(file, tensor.nbytes)
