"""Questions that stand in the way until they are answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QMessageBox

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget


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
