"""What the members say: their masks side by side, one of them in the canvas, where they agree."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QColor, QKeySequence, QShortcut
from qtpy.QtWidgets import QCheckBox, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_diffseg._layers import AGREEMENT_COLOURS, MASK_COLOUR, find_layers, get_tag
from napari_diffseg._widgets.contours import AgreementContours
from napari_diffseg._widgets.form import SPACING, Row, describe
from napari_diffseg._widgets.member_list import PICTURE, MemberList
from napari_diffseg._widgets.member_outline import MemberOutline
from napari_diffseg._widgets.panel import Panel
from napari_diffseg._widgets.thumbnails import draw_thumbnails, find_window
from napari_diffseg.core.brats import MODALITIES
from napari_diffseg.core.levels import MASK_LEVEL
from napari_diffseg.core.overlaps import rank_members

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_diffseg._widgets.run import Run
    from napari_diffseg._widgets.stage import Stage
    from napari_diffseg.core.overlaps import Standing

DRAW_MS = 30  # slices and samples that come within this time are drawn together
NEW_SAMPLES_MS = 200

FLICKER = "Show two samples in turn: those clicked last, or else the typical one and the outlier"


class MembersPanel(Panel):
    """Thumbnails of the members on the slice on screen, and what they do in the canvas."""

    def __init__(self, stage: Stage) -> None:
        self.list = MemberList()
        describe(
            self.list,
            "Samples",
            "Every sample's mask on this slice, cut at 0.5. First the typical one, which agrees "
            "best with all others, then the smallest, the largest and the outlier, which agrees "
            "least. Point at one to see its outline in the canvas, click to keep it there.",
        )
        self.flicker_button = QPushButton("Flicker")
        describe(self.flicker_button, "Flicker", f"{FLICKER}. Key: F")
        self.agreement = QCheckBox("Agreement")
        describe(
            self.agreement,
            "Agreement",
            "Outlines in the canvas of where at least one sample, at least half of them, and all "
            "of them see tumour. The mask's own outline lies above them.",
        )
        legend = QLabel(_make_legend())
        legend.setToolTip(self.agreement.toolTip())
        body = QWidget()
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        layout.addWidget(self.list)
        layout.addWidget(Row(self.flicker_button, self.agreement, legend))
        self._outline = MemberOutline(stage)
        self._standings: list[Standing] = []
        self._shown_run: Run | None = None
        self._pointed: int | None = None
        self._kept: int | None = None
        self._clicked: deque[int] = deque(maxlen=2)
        super().__init__(
            stage,
            "Samples",
            body,
            "What the single samples say: the typical one, extremes, agreement",
        )
        self._contours = AgreementContours(stage, self)
        self._draw_timer = _make_timer(self, self._draw)
        self._samples_timer = _make_timer(self, self._take_samples)
        self.list.pointed.connect(self._point_at)
        self.list.clicked_on.connect(self._click)
        self.list.left.connect(self._leave)
        self.agreement.toggled.connect(self._contours.set_on)
        self.flicker_button.clicked.connect(self.flicker)
        stage.changed.connect(self._expect_samples)
        dock = stage.parent()
        shortcut = QShortcut(QKeySequence("F"), dock if isinstance(dock, QWidget) else self)
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.setWhatsThis(FLICKER)
        shortcut.activated.connect(self.flicker)

    def refresh(self, run: Run) -> None:
        """Order the members anew; while samples come they stay in the order of their numbers."""
        if run is not self._shown_run:
            self._forget()
            self._shown_run = run
        standings = rank_members(run.ensemble, run.overlaps, run.view.k)
        if self.stage.is_running:
            standings.sort(key=lambda one: one.member)
        self._standings = standings
        self.list.make_room(min(run.view.k, run.ensemble.n_members))
        self.list.show_members(standings, run.case.geometry.voxel_volume_ml)
        self._draw()
        if self._kept is not None:
            self._keep(self._kept if self._kept in self.list.members else None)

    def clear(self) -> None:
        """Show no member."""
        self._outline.leave()
        self._forget()
        self.list.show_members([], 1.0)

    def show_slice(self, z: int) -> None:  # noqa: ARG002 (the newest one is drawn)
        """Draw the members on another slice, soon."""
        if not self._draw_timer.isActive():
            self._draw_timer.start(DRAW_MS)

    def release(self) -> None:
        """Stop the timers and forget the run."""
        for timer in (self._draw_timer, self._samples_timer):
            timer.stop()
        self._forget()

    def flicker(self) -> None:
        """Show the other one of two members in the canvas."""
        pair = self._pair()
        if self._run is None or len(pair) < 2:
            return
        self._pointed = None
        self._keep(pair[1] if self._kept == pair[0] else pair[0])

    def _pair(self) -> list[int]:
        """Return the two that were clicked last, filled up with the typical one and the outlier."""
        run = self._run
        if run is None:
            return []
        standings = rank_members(run.ensemble, run.overlaps, run.view.k)
        named = {name: one.member for one in standings for name in one.characters}
        members = [one.member for one in standings]
        clicked = [member for member in reversed(self._clicked) if member in members]
        others = [named[name] for name in ("typical", "outlier") if name in named]
        return list(dict.fromkeys([*clicked, *others, *members]))[:2]

    def _point_at(self, member: int) -> None:
        pointed = None if member < 0 else member
        if pointed != self._pointed:
            self._pointed = pointed
            self._show_outline()

    def _click(self, member: int) -> None:
        if member == self._kept:
            self._leave()
            return
        if member in self._clicked:
            self._clicked.remove(member)
        self._clicked.append(member)
        self._keep(member)

    def _leave(self) -> None:
        self._pointed = None
        self._keep(None)

    def _keep(self, member: int | None) -> None:
        self._kept = member
        self.list.mark(member)
        self._show_outline()

    def _show_outline(self) -> None:
        self._outline.show(self._kept if self._pointed is None else self._pointed)

    def _forget(self) -> None:
        self._shown_run = self._pointed = self._kept = None
        self._standings = []
        self._clicked.clear()
        self._outline.forget()
        self.list.mark(None)

    def _expect_samples(self) -> None:
        if self.stage.is_running and self.is_open and not self._samples_timer.isActive():
            self._samples_timer.start(NEW_SAMPLES_MS)

    def _take_samples(self) -> None:
        if self._run is not None and self.is_open:
            self.refresh(self._run)

    def _draw(self) -> None:
        """Draw the thumbnails of the slice on screen: 5 ms for 20 members."""
        run, z = self._run, self.stage.visible_z
        if run is None or run is not self._shown_run or z is None or not self._standings:
            return
        window = find_window(run.overlaps.box([z]) or run.overlaps.box(), run.mask.shape[1:])
        image, limits = self._background(run, z)
        members = np.array([one.member for one in self._standings])
        levels = run.ensemble.members_uint8()[(members, z, *window.box)]
        ratio = self.list.devicePixelRatioF()
        colour = QColor(MASK_COLOUR)
        pictures = draw_thumbnails(
            image[window.box],
            limits,
            levels >= MASK_LEVEL,
            round(PICTURE * ratio),
            (colour.red(), colour.green(), colour.blue()),
        )
        self.list.show_pictures(pictures, ratio)

    def _background(self, run: Run, z: int) -> tuple[NDArray[np.float32], tuple[float, float]]:
        """Return the image that is on screen, or FLAIR, and its limits of black and white."""
        layers = find_layers(self.stage.viewer.layers, role="image", case=run.case)
        for layer in reversed(layers):
            if layer.visible:
                tag = get_tag(layer)
                modality = MODALITIES.index(tag["modality"]) if tag else -1
                return run.case.prior_image[modality][z], tuple(layer.contrast_limits)
        image = run.case.prior_image[MODALITIES.index("flair")][z]
        return image, (0.0, float(image.max()))


def _make_timer(panel: MembersPanel, slot: Callable[[], None]) -> QTimer:
    timer = QTimer(panel)
    timer.setSingleShot(True)
    timer.timeout.connect(slot)
    return timer


def _make_legend() -> str:
    texts = zip(AGREEMENT_COLOURS, ("any", "half", "all"), strict=True)
    return " &nbsp;".join(
        f"<span style='color: {colour}'>■</span> {text}" for colour, text in texts
    )
