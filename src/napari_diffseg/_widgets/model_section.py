"""Which model: the bundled one or a file. Nothing is loaded here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog

from napari_diffseg._widgets.form import Form, describe, make_chooser

if TYPE_CHECKING:
    from napari_diffseg._widgets.engine import ModelReady

_TOOLTIP = (
    "The network that draws the samples. A file can be a model trained with this project "
    "(.safetensors) or a checkpoint of the paper's published code (.pt). It is loaded while "
    "you look at a case."
)


class ModelSection(Form):
    """Chooser of the model; the last entry asks for a file."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._path: Path | None = None
        self.chooser = make_chooser()
        self.chooser.addItem("Bundled: Whole tumour, fast", None)
        self.chooser.addItem("From file…", "ask")
        self.chooser.activated.connect(self._choose)
        describe(self.chooser, "Model", _TOOLTIP)
        self.add_row("Model", self.chooser)

    @property
    def path(self) -> Path | None:
        """File of the model; None is the bundled one."""
        return self._path

    def set_path(self, path: Path | None) -> None:
        """Choose a model without asking."""
        index = 0 if path is None else self.chooser.findData(str(path))
        if index < 0:
            index = self.chooser.count() - 1
            self.chooser.insertItem(index, str(path and path.name), str(path))
        self.chooser.setCurrentIndex(index)
        if path != self._path:
            self._path = path
            describe(self.chooser, "Model", _TOOLTIP)
            self.changed.emit()

    def show_card(self, model: ModelReady) -> None:
        """Show what the loaded model says of itself."""
        card = model.card
        if self._path is None:
            self.chooser.setItemText(0, f"Bundled: {card.name}")
        text = f"{card.name}: {card.description} Recommended: {card.recommended_steps} steps."
        describe(self.chooser, "Model", f"{text} SHA-256 {model.sha256[:12]}…")

    def _choose(self, index: int) -> None:
        data = self.chooser.itemData(index)
        if data != "ask":
            self.set_path(None if data is None else Path(data))
            return
        name, _ = QFileDialog.getOpenFileName(
            self, "Choose a model", "", "Models (*.safetensors *.pt *.pth);;All files (*)"
        )
        self.set_path(Path(name) if name else self._path)
