"""A message inside of the widget that stays until it is closed or the next run begins."""

from __future__ import annotations

from typing import Literal

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QToolButton

from napari_diffseg._widgets.form import describe

Kind = Literal["info", "warning", "error"]

# White text is readable on each of them, in the light theme as in the dark one.
_BACKGROUND = {"info": "#1f4e79", "warning": "#7a4b00", "error": "#9b1c1c"}


class MessageBar(QFrame):
    """One message; hidden when there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("diffseg_message")
        self._kind: Kind = "info"
        self.label = QLabel()
        self.label.setWordWrap(True)
        self.label.setTextFormat(Qt.TextFormat.PlainText)
        self.label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.close_button = QToolButton()
        self.close_button.setText("✕")
        self.close_button.setAutoRaise(True)
        self.close_button.clicked.connect(self.clear)
        describe(self.close_button, "Close message", "Close this message.")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(8, 6, 4, 6)
        layout.addWidget(self.label, 1)
        layout.addWidget(self.close_button, 0, Qt.AlignmentFlag.AlignTop)
        self.hide()

    @property
    def kind(self) -> Kind:
        """How serious the message is."""
        return self._kind

    def text(self) -> str:
        """Return the message that is shown, or an empty text."""
        return "" if self.isHidden() else self.label.text()

    def show_message(self, kind: Kind, text: str) -> None:
        """Show a message instead of the one before."""
        self._kind = kind
        self.setStyleSheet(
            f"#diffseg_message {{ background: {_BACKGROUND[kind]}; border-radius: 4px; }}"
            "#diffseg_message QLabel, #diffseg_message QToolButton"
            " { color: white; background: transparent; border: none; }"
        )
        self.label.setText(text)
        self.setAccessibleName(f"{kind}: {text}")
        self.show()

    def clear(self) -> None:
        """Show nothing."""
        self.hide()
        self.label.clear()
