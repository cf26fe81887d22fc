"""What the single samples say: thumbnails, an outline in the canvas, agreement, flicker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QShortcut

from napari_diffseg._widgets.contours import draw_agreement, find_outline
from napari_diffseg._widgets.members_panel import MembersPanel
from napari_diffseg._widgets.thumbnails import draw_thumbnails, find_window
from napari_diffseg.core.overlaps import rank_members
from tests.plugin.conftest import TUMOUR_Z, Desk, SlowMotion

LEFT = Qt.MouseButton.LeftButton


def find_panel(desk: Desk) -> MembersPanel:
    (panel,) = (each for each in desk.widget.panels if isinstance(each, MembersPanel))
    return panel


@pytest.fixture
def sampled(desk: Desk, case_folder: Path) -> Desk:
    """Give a desk with five samples of all slices and the panel unfolded."""
    desk.open(case_folder)
    desk.widget.parameters.whole_volume.click()
    desk.click(find_panel(desk).button)
    desk.segment()
    return desk


def place_of(desk: Desk, row: int) -> QPoint:
    members = find_panel(desk).list
    members.doItemsLayout()
    return members.visualItemRect(members.item(row)).center()


def click(desk: Desk, row: int) -> None:
    desk.qtbot.mouseClick(find_panel(desk).list.viewport(), LEFT, pos=place_of(desk, row))


def member_mask(desk: Desk, member: int) -> np.ndarray:
    return np.asarray(desk.layer("samples").data[member] >= 128)


def shown_member(desk: Desk) -> int | None:
    """The member whose outline is in the canvas; it is checked to be that member's mask."""
    if "member" not in desk.roles or not desk.layer("member").visible:
        return None
    layer = desk.layer("member")
    member = int(layer.name.split()[1]) - 1
    np.testing.assert_array_equal(layer.data, member_mask(desk, member))
    assert layer.contour == 1
    return member


def picture(desk: Desk, row: int) -> Any:
    pixmap = find_panel(desk).list.item(row).data(Qt.ItemDataRole.DecorationRole)
    return pixmap.toImage()


def test_the_typical_one_comes_first_with_its_volume(sampled: Desk) -> None:
    run = sampled.widget.stage.run
    assert run is not None
    ranked = rank_members(run.ensemble, run.overlaps)
    members = find_panel(sampled).list
    assert members.members == [one.member for one in ranked]
    text = members.item(0).data(Qt.ItemDataRole.AccessibleTextRole)
    volume_ml = member_mask(sampled, ranked[0].member).sum() / 1000
    assert text.startswith(f"Sample {ranked[0].member + 1}, typical")
    assert f"{volume_ml:.2f} mL" in text


def test_click_shows_a_member_and_click_again_hides_it(sampled: Desk) -> None:
    order = find_panel(sampled).list.members
    selected = set(sampled.viewer.layers.selection)
    assert shown_member(sampled) is None
    click(sampled, 2)
    assert shown_member(sampled) == order[2]
    click(sampled, 1)
    assert shown_member(sampled) == order[1]
    click(sampled, 1)
    assert shown_member(sampled) is None
    assert set(sampled.viewer.layers.selection) == selected


def test_escape_hides_the_member(sampled: Desk) -> None:
    click(sampled, 2)
    sampled.qtbot.keyClick(find_panel(sampled).list, Qt.Key.Key_Escape)
    assert shown_member(sampled) is None


def test_keys_point_and_choose(sampled: Desk) -> None:
    members = find_panel(sampled).list
    members.setCurrentRow(0)
    sampled.qtbot.keyClick(members, Qt.Key.Key_End)
    assert shown_member(sampled) == members.members[-1]
    sampled.qtbot.keyClick(members, Qt.Key.Key_Return)
    members.pointed.emit(-1)  # the focus goes elsewhere
    assert shown_member(sampled) == members.members[-1]


def test_pointing_shows_a_member_for_the_moment(sampled: Desk) -> None:
    members = find_panel(sampled).list
    click(sampled, 3)
    members.itemEntered.emit(members.item(1))
    assert shown_member(sampled) == members.members[1]
    members.viewportEntered.emit()
    assert shown_member(sampled) == members.members[3]


def test_pictures_follow_the_slice(sampled: Desk) -> None:
    before = picture(sampled, 0)
    case = sampled.widget.stage.run.case  # type: ignore[union-attr]
    sampled.go_to(case, TUMOUR_Z - 2)
    sampled.wait(lambda: picture(sampled, 0) != before)


def test_members_that_are_not_used_are_not_shown(sampled: Desk) -> None:
    click(sampled, find_panel(sampled).list.members.index(4))
    assert shown_member(sampled) == 4
    sampled.widget.ensemble.members.setValue(3)
    sampled.wait(lambda: sorted(find_panel(sampled).list.members) == [0, 1, 2])
    assert shown_member(sampled) is None


def test_while_samples_come_members_keep_the_order_of_their_numbers(
    make_desk: Any, slow_motion: SlowMotion, case_folder: Path
) -> None:
    desk = make_desk(slow_motion)
    desk.open(case_folder)
    find_panel(desk).set_open(True)
    desk.widget.parameters.whole_volume.click()
    desk.click(desk.widget.run.button)
    slow_motion.go(30)
    members = find_panel(desk).list
    desk.wait(lambda: len(members.members) >= 2)
    assert members.members == list(range(len(members.members)))
    slow_motion.go()
    desk.wait_until_ready()
    assert sorted(members.members) == [0, 1, 2, 3, 4]


def test_another_run_begins_without_a_member_in_the_canvas(sampled: Desk) -> None:
    click(sampled, 2)
    sampled.widget.parameters.seed.setValue(5)
    sampled.segment()
    assert shown_member(sampled) is None
    click(sampled, 0)
    assert shown_member(sampled) == find_panel(sampled).list.members[0]
    assert sampled.roles.count("member") == 1


def test_flicker_shows_the_typical_one_and_the_outlier_in_turn(sampled: Desk) -> None:
    run = sampled.widget.stage.run
    assert run is not None
    named = {
        c: one.member for one in rank_members(run.ensemble, run.overlaps) for c in one.characters
    }
    seen = []
    for _ in range(3):
        sampled.click(find_panel(sampled).flicker_button)
        seen.append(shown_member(sampled))
    assert seen == [named["typical"], named["outlier"], named["typical"]]


def test_flicker_takes_the_two_that_were_clicked_last(sampled: Desk) -> None:
    order = find_panel(sampled).list.members
    for row in (0, 3, 1):
        click(sampled, row)
    (key,) = (s for s in sampled.widget.findChildren(QShortcut) if s.key().toString() == "F")
    seen = []
    for _ in range(2):
        key.activated.emit()
        seen.append(shown_member(sampled))
    assert seen == [order[3], order[1]]
    assert key.context() == Qt.ShortcutContext.WidgetWithChildrenShortcut


def test_agreement_is_drawn_on_the_slice_on_screen(sampled: Desk) -> None:
    panel = find_panel(sampled)
    panel.agreement.setChecked(True)
    layer = sampled.layer("agreement")
    samples = sampled.layer("samples").data >= 128
    np.testing.assert_array_equal(layer.data[TUMOUR_Z], draw_agreement(samples[:, TUMOUR_Z]))
    case = sampled.widget.stage.run.case  # type: ignore[union-attr]
    sampled.go_to(case, TUMOUR_Z - 1)
    np.testing.assert_array_equal(
        layer.data[TUMOUR_Z - 1], draw_agreement(samples[:, TUMOUR_Z - 1])
    )
    sampled.widget.ensemble.members.setValue(2)  # at once
    np.testing.assert_array_equal(
        layer.data[TUMOUR_Z - 1], draw_agreement(samples[:2, TUMOUR_Z - 1])
    )
    panel.agreement.setChecked(False)
    assert not layer.visible
    panel.agreement.setChecked(True)
    assert layer.visible
    assert sampled.roles.count("agreement") == 1


def test_agreement_is_drawn_on_all_slices_when_they_are_seen_from_the_side(sampled: Desk) -> None:
    find_panel(sampled).agreement.setChecked(True)
    samples = sampled.layer("samples").data >= 128

    def expect(k: int) -> np.ndarray:
        return np.stack([draw_agreement(samples[:k, z]) for z in range(samples.shape[1])])

    layer = sampled.layer("agreement")
    assert not np.array_equal(layer.data, expect(5))
    sampled.viewer.dims.order = (0, 2, 1, 3)  # coronal
    sampled.wait(lambda: np.array_equal(layer.data, expect(5)))
    sampled.widget.ensemble.members.setValue(2)
    sampled.wait(lambda: np.array_equal(layer.data, expect(2)))
    sampled.viewer.dims.order = (0, 1, 2, 3)
    sampled.widget.ensemble.members.setValue(4)
    assert not np.array_equal(layer.data, expect(4))
    sampled.viewer.dims.ndisplay = 3
    sampled.wait(lambda: np.array_equal(layer.data, expect(4)))


def test_agreement_that_the_user_hides_or_deletes_does_not_come_back_by_itself(
    sampled: Desk,
) -> None:
    box = find_panel(sampled).agreement
    case = sampled.widget.stage.run.case  # type: ignore[union-attr]
    box.setChecked(True)
    layer = sampled.layer("agreement")
    layer.visible = False
    sampled.go_to(case, TUMOUR_Z - 1)
    assert not layer.visible
    sampled.viewer.layers.remove(layer)
    sampled.go_to(case, TUMOUR_Z)
    assert "agreement" not in sampled.roles
    box.setChecked(False)
    box.setChecked(True)
    assert "agreement" in sampled.roles


def test_the_members_own_outline_lies_above_and_agreement_below_the_mask(sampled: Desk) -> None:
    find_panel(sampled).agreement.setChecked(True)
    click(sampled, 0)
    assert sampled.roles[-1] == "member"
    roles = sampled.roles
    assert roles.index("mean") < roles.index("agreement") < roles.index("truth")
    assert roles.index("agreement") < roles.index("mask")


def test_outlines_of_one_half_and_all() -> None:
    masks = np.zeros((4, 9, 9), bool)
    masks[:, 3:6, 3:6] = True
    masks[:2, 1:8, 1:8] = True
    masks[0] = True
    labels = draw_agreement(masks)
    assert labels[0].tolist() == [1] * 9
    assert labels[1, 1:8].tolist() == [2] * 7
    assert labels[3].tolist() == [1, 2, 0, 3, 3, 3, 0, 2, 1]
    assert labels[4, 4] == 0


def test_all_that_agree_have_one_outline() -> None:
    masks = np.zeros((3, 5, 5), bool)
    masks[:, 1:4, 1:4] = True
    assert set(np.unique(draw_agreement(masks))) == {0, 3}
    assert not draw_agreement(np.zeros((0, 5, 5), bool)).any()


@pytest.mark.parametrize(
    "box", [(0, 5, 0, 3), (60, 99, 90, 110), (100, 240, 30, 240), (7, 8, 9, 10)]
)
def test_the_window_holds_the_box_and_lies_in_the_slice(box: tuple[int, int, int, int]) -> None:
    y0, y1, x0, x1 = box
    window = find_window((slice(y0, y1), slice(x0, x1)), (240, 250))
    y, x = window.box
    assert 0 <= y.start <= y0
    assert y1 <= y.stop <= 240
    assert 0 <= x.start <= x0
    assert x1 <= x.stop <= 250
    assert y.stop - y.start == x.stop - x.start == window.side


def test_a_slice_without_masks_is_shown_in_its_middle() -> None:
    assert find_window(None, (12, 20)).box == (slice(0, 12), slice(4, 16))


def test_a_thumbnail_shows_the_mask_in_its_colour() -> None:
    image = np.full((16, 16), 0.5, np.float32)
    masks = np.zeros((2, 16, 16), bool)
    masks[1, 4:12, 4:12] = True
    empty, full = draw_thumbnails(image, (0.0, 1.0), masks, 32, (10, 200, 30))
    assert len(np.unique(empty)) == 1
    outline = find_outline(np.kron(masks[1], np.ones((2, 2), bool)))
    assert (full[outline] == (10, 200, 30)).all()
    assert (full[0, 0] == empty[0, 0]).all()
    inside = full[16, 16].astype(int)
    assert inside[1] > inside[0]
