"""The dock widget: `main` coordinates, every section is a small file of its own."""

from napari_diffseg._widgets.main import DiffsegWidget

__all__ = ["DiffsegWidget"]
