"""Questions that stand in the way until they are answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QMessageBox

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

REPLACE = "Replace"


def ask(parent: QWidget, text: str, *choices: str) -> str:
    """Ask for one of the choices; an empty text when the user thinks better of it."""
    box = QMessageBox(parent)
    box.setIcon(QMessageBox.Icon.Question)
    box.setWindowTitle("Diffusion segmentation")
    box.setText(text)
    buttons = {
        choice: box.addButton(choice, QMessageBox.ButtonRole.AcceptRole) for choice in choices
    }
    box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))
    box.exec()
    clicked = box.clickedButton()
    box.deleteLater()
    return next((choice for choice, button in buttons.items() if button is clicked), "")


def complete_path(parent: QWidget, name: str, *suffixes: str) -> Path | None:
    """Give a file's name that was typed without an ending the first of these.

    The dialog has asked before it replaces what was typed, not this: so it is asked here. None when
    the user thinks better of it.
    """
    path = Path(name)
    if path.suffix.lower() in suffixes:
        return path
    path = path.with_name(path.name + suffixes[0])
    if path.exists() and not ask(parent, f"Replace {path.name}?", REPLACE):
        return None
    return path
