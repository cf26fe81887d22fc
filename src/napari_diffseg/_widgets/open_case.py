"""The menu's "Open BraTS case...": a folder dialogue, then napari's own way of opening."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QWidget

from napari_diffseg._settings import PLUGIN

if TYPE_CHECKING:
    import napari


def ask_folder(parent: QWidget | None = None) -> str:
    """Ask for the folder of a case; an empty text when the user thinks better of it."""
    return str(QFileDialog.getExistingDirectory(parent, "Open BraTS case: choose its folder"))


def ask_files(parent: QWidget | None = None) -> list[str]:
    """Ask for files of a case; an empty list when the user thinks better of it."""
    names, _ = QFileDialog.getOpenFileNames(
        parent, "Open BraTS case: choose its files", "", "NIfTI (*.nii *.nii.gz);;All files (*)"
    )
    return list(names)


def ask_result(parent: QWidget | None = None) -> str:
    """Ask for a saved result; an empty text when the user thinks better of it."""
    name, _ = QFileDialog.getOpenFileName(
        parent, "Open a saved result", "", "Results (*_diffseg.json);;All files (*)"
    )
    return str(name)


def open_case_dialog(viewer: napari.viewer.Viewer) -> None:
    """Ask for a folder and open it as a case; errors are shown by napari."""
    folder = ask_folder()
    if folder:
        viewer.open(folder, plugin=PLUGIN)
