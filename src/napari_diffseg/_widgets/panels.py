"""The parts of the review, in their order from top to bottom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_diffseg._widgets.convergence_panel import ConvergencePanel
from napari_diffseg._widgets.lesions_panel import LesionsPanel
from napari_diffseg._widgets.members_panel import MembersPanel
from napari_diffseg._widgets.profile_panel import ProfilePanel
from napari_diffseg._widgets.truth_panel import TruthPanel
from napari_diffseg._widgets.work_list_panel import WorkListPanel

if TYPE_CHECKING:
    from napari_diffseg._widgets.panel import Panel
    from napari_diffseg._widgets.stage import Stage


def make_panels(stage: Stage) -> list[Panel]:
    """Return new panels that follow what is on stage."""
    return [
        ProfilePanel(stage),
        WorkListPanel(stage),
        MembersPanel(stage),
        ConvergencePanel(stage),
        LesionsPanel(stage),
        TruthPanel(stage),
    ]
