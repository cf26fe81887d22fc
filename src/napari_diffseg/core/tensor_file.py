"""Files of ``torch.save``, read without running anything that is in them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_diffseg.core.errors import CaseError, DiffsegError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def load_torch_file(path: Path, error_type: type[DiffsegError], advice: str) -> Any:
    """Return what is in a file of ``torch.save``, on the CPU: tensors and plain values only.

    Parameters
    ----------
    path
        The file.
    error_type
        What to raise.
    advice
        What to do if there are Python objects in it.

    Raises
    ------
    DiffsegError
        Of `error_type`: the file is missing, damaged, of something else or holds objects.
    """
    import torch

    damaged = f"{path} is damaged or not a PyTorch file: copy or download it again."
    try:
        with path.open("rb") as file:
            is_legacy = file.read(1) == b"\x80"  # a bare pickle, from before PyTorch 1.6
        if not is_legacy and not zipfile.is_zipfile(path):
            raise error_type(damaged)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise error_type(f"{path} cannot be opened: {error.strerror or error}.") from error
    except pickle.UnpicklingError as error:
        raise error_type(
            f"{path} is damaged or holds Python objects beside its tensors. Such files are not "
            f"opened, because they could run code: {advice}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise error_type(f"{damaged} ({error})") from error


def load_tensor(path: Path) -> NDArray[np.float32]:
    """Return the one tensor that is in a file.

    Raises
    ------
    CaseError
        The file cannot be read, or holds something else.
    """
    import torch

    tensor = load_torch_file(path, CaseError, "save the tensor alone.")
    if not isinstance(tensor, torch.Tensor):
        raise CaseError(f"{path} holds a {type(tensor).__name__}, not a tensor. Move it away.")
    array: NDArray[np.float32] = tensor.float().numpy()
    return array
