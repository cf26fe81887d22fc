"""Panel: the mask's connected components in a table. A row leads to the lesion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QHeaderView,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_diffseg._widgets.form import SPACING, describe
from napari_diffseg._widgets.newest import Newest
from napari_diffseg._widgets.panel import Panel
from napari_diffseg._widgets.readout_section import DASH, format_ml
from napari_diffseg.core.lesions import Lesion, Lesions, find_lesions

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage
    from napari_diffseg.core.geometry import Geometry

N_ROWS = 6  # to be seen at once; the others scroll
ROW_HEIGHT = 20
COLUMNS = {
    "mL": "Volume in millilitres.",
    "p": "Mean probability of its voxels.",
    "1 − Dice": "How much the samples disagree within it: 0 all have it, 1 no two share a voxel.",
    "slice": "Where it is largest, by the file's own numbers.",
    "R, A, S (mm)": "Its centroid, in the scanner's coordinates: to the right, to the front, up.",
}
TOOLTIP = (
    "The connected parts of the mask, the largest first. A click or the arrow keys lead to the "
    "slice on which a part is largest, and move it into the middle."
)


class LesionsPanel(Panel):
    """One row for each lesion."""

    def __init__(self, stage: Stage) -> None:
        self.table = QTableWidget(0, len(COLUMNS))
        self.note = QLabel()
        self.note.setWordWrap(True)
        self.lesions: tuple[Lesion, ...] = ()
        self._set_up_table()
        body = QWidget()
        column = QVBoxLayout(body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(SPACING // 2)
        column.addWidget(self.table)
        column.addWidget(self.note)
        super().__init__(stage, "Lesions", body, TOOLTIP)
        self._finding = Newest(self)
        self._finding.done.connect(self._show)
        self.clear()

    def refresh(self, run: Run) -> None:
        """Find the lesions anew, in another thread."""
        k = run.view.k
        # Only slices with mask are copied; those without cost neither time nor memory.
        mask, mean = np.zeros_like(run.mask), np.zeros_like(run.mean)
        for z in np.flatnonzero(run.is_sampled):
            if run.mask[z].any():
                mask[z], mean[z] = run.mask[z], run.mean[z]
        self._finding.ask(
            find_lesions,
            mask,
            mean,
            run.ensemble.members_uint8(k),
            run.ensemble.sampled[:k].copy(),
            run.case.geometry,
        )

    def clear(self) -> None:
        """Show that there is no mask."""
        self._finding.release()
        self._fill(())
        self.note.setText("Segment slices to see the parts of the mask here.")
        self.note.show()

    def release(self) -> None:
        """Stop what would come later."""
        self._finding.release()

    def _set_up_table(self) -> None:
        table = self.table
        describe(table, "Lesions", TOOLTIP)
        for column, (title, tooltip) in enumerate(COLUMNS.items()):
            header = QTableWidgetItem(title)
            header.setToolTip(tooltip)
            table.setHorizontalHeaderItem(column, header)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setCornerButtonEnabled(False)  # it would select all
        describe(table.findChild(QAbstractButton), "Lesions", TOOLTIP)
        table.setTabKeyNavigation(False)  # Tab leaves it: the arrow keys move in it
        table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        table.setShowGrid(False)
        table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        table.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        across = table.horizontalHeader()
        across.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        across.setStretchLastSection(True)
        across.setMinimumSectionSize(20)
        table.setMinimumWidth(1)
        table.itemSelectionChanged.connect(self._go)
        table.itemClicked.connect(self._go)

    def _show(self, result: object) -> None:
        if self._run is None or not isinstance(result, Lesions):
            return
        self._fill(result.lesions)
        if result.n_more:
            self.note.setText(
                f"and {result.n_more} smaller ones, {format_ml(result.more_ml)} mL together"
            )
        else:
            self.note.setText("" if result.lesions else "The mask is empty.")
        self.note.setVisible(bool(self.note.text()))

    def _fill(self, lesions: tuple[Lesion, ...]) -> None:
        self.lesions = lesions
        table = self.table
        table.blockSignals(True)
        table.clearSelection()
        table.setRowCount(len(lesions))
        for row, lesion in enumerate(lesions):
            table.setVerticalHeaderItem(row, QTableWidgetItem(str(lesion.number)))
            for column, text in enumerate(_cells(lesion)):
                item = QTableWidgetItem(text)
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                table.setItem(row, column, item)
        table.blockSignals(False)
        n_rows = min(max(len(lesions), 1), N_ROWS)
        table.setFixedHeight(table.horizontalHeader().sizeHint().height() + n_rows * ROW_HEIGHT + 2)
        table.setVisible(bool(lesions))

    def _go(self) -> None:
        run, rows = self.stage.run, self.table.selectionModel().selectedRows()
        if run is None or not rows:
            return
        lesion = self.lesions[rows[0].row()]
        self.stage.go_to_slice(lesion.largest_z)
        _centre_camera(self.stage.viewer, lesion, run.case.geometry)


def _centre_camera(viewer: ViewerModel, lesion: Lesion, geometry: Geometry) -> None:
    """Move a lesion into the middle of the canvas, however the viewer is turned."""
    index = np.array([lesion.largest_z, *lesion.centre_yx])
    position_mm = np.array(geometry.translate_mm) + index * np.array(geometry.spacing_mm)
    first_axis = viewer.dims.ndim - 3
    centre = list(viewer.scene.camera.center)
    shown = viewer.dims.displayed
    for place, axis in zip(range(3 - len(shown), 3), shown, strict=True):
        if axis >= first_axis:
            centre[place] = float(position_mm[axis - first_axis])
    viewer.scene.camera.center = tuple(centre)


def _cells(lesion: Lesion) -> list[str]:
    differ = DASH if lesion.disagreement is None else f"{lesion.disagreement:.2f}"
    return [
        format_ml(lesion.volume_ml) if lesion.volume_ml >= 0.01 else f"{lesion.volume_ml:.3f}",
        f"{lesion.mean_probability:.2f}",
        differ,
        str(lesion.largest_slice),
        ", ".join(f"{value:.0f}" for value in lesion.centroid_ras_mm),
    ]
