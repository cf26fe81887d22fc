"""Keys that act while the dock has the focus, and the list of them that the dock shows."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QLabel, QWidget

from napari_diffseg._widgets.form import Fold, describe


class Shortcuts(Fold):
    """The keys of the dock, folded away at its end.

    napari's own keys stay what they are: ours belong to the dock and what is in it, and in a field
    that takes letters, letters are text.
    """

    def __init__(self, dock: QWidget) -> None:
        self._dock = dock
        self._table = QLabel()
        self._table.setTextFormat(Qt.TextFormat.RichText)
        self._table.setWordWrap(True)
        self._table.setMinimumWidth(1)  # long lines are broken, the dock does not grow with them
        describe(self._table, "Keys", "They act when the dock was clicked last.")
        super().__init__(
            "Keyboard", self._table, "Show the keys that act when the dock was clicked last."
        )
        self.toggled.connect(self._list)

    def register(self, keys: str, text: str, slot: Callable[[], object]) -> QShortcut:
        """Let keys, such as "Shift+N", call a slot; `text` says in the list what it does."""
        shortcut = QShortcut(QKeySequence(keys), self._dock)
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.setWhatsThis(text)
        shortcut.activated.connect(slot)
        self._list()
        return shortcut

    def entries(self) -> list[tuple[str, str]]:
        """Return the keys, as this system writes them, and what they do.

        Also those that parts of the dock have made themselves, if they say what they are for.
        """
        native = QKeySequence.SequenceFormat.NativeText
        return [
            (shortcut.key().toString(native), shortcut.whatsThis())
            for shortcut in self._dock.findChildren(QShortcut)
            if shortcut.whatsThis()
        ]

    def _list(self) -> None:
        if self.is_open:
            rows = "".join(
                "<tr><td style='padding-right: 12px; white-space: nowrap'>"
                f"<b>{escape(keys)}</b></td>"
                f"<td>{escape(text)}</td></tr>"
                for keys, text in self.entries()
            )
            self._table.setText(f"<table>{rows}</table>")
