"""Pictures of a night: files that any browser shows, the same for a seed, and those of the README.

The committed ones hold numbers and words alone here: where another Matplotlib puts a label by a
pixel, a picture is not stale.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from defusedxml import ElementTree

from kd_sleep.signals.j_peaks import j_peaks
from kd_sleep.signals.timeseries import Series
from kd_sleep.simulation import night_pictures, validation
from kd_sleep.simulation.physiology import DRIVE_HZ
from kd_sleep.simulation.sensor_measures import matched

ROOT = Path(__file__).parents[2]
NAMES = ["night.svg", "ten_seconds.svg"]
SVG = "{http://www.w3.org/2000/svg}"
REMAKE = "remake it: python -m launch.simulate_cohort --validate --out=validation"


@pytest.fixture(scope="module")
def night():
    return validation.draw_night(0, 0)[1]


@pytest.fixture(scope="module")
def folder(night, tmp_path_factory):
    out = tmp_path_factory.mktemp("pictures")
    night_pictures.write_pictures(out, night, 0)
    return out


def curves(svg: str) -> list[np.ndarray]:
    """The data lines of a picture, each scaled to 0-1 in both directions."""
    found = []
    for path in ElementTree.fromstring(svg).iter(SVG + "path"):
        points = np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), float)
        if len(points) > 50:
            found.append((points - points.min(0)) / np.ptp(points, axis=0))
    return found


def words(svg: str) -> set[str]:
    root = ElementTree.fromstring(svg)
    return {"".join(text.itertext()) for text in root.iter(SVG + "text")} | {root.get("aria-label")}


def test_the_readmes_pictures_are_those_that_the_command_makes(folder):
    for name in NAMES:
        made, kept = (folder / name).read_text(), (ROOT / "docs" / "pictures" / name).read_text()
        assert words(made) == words(kept), f"{name}: {REMAKE}"
        pairs = list(zip(curves(made), curves(kept), strict=True))
        assert len(pairs) >= 3, name
        for new, old in pairs:
            # Resampled: what is left out of a straight line may differ by a point.
            at = np.linspace(0, 1, 400)
            apart = np.abs(np.interp(at, *_along(new)) - np.interp(at, *_along(old)))
            assert np.median(apart) < 0.005, f"{name}: {REMAKE}"


def _along(points):
    """Height by the way along a line: steps have several at one time."""
    way = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    return way / way[-1], points[:, 1]


def test_files_stand_alone_and_are_the_same_for_a_seed(folder, night, tmp_path):
    """As an <img> sees them: no page around them, so their own namespace, ground and inks."""
    night_pictures.write_pictures(tmp_path, night, 0)
    for name in NAMES:
        text = (folder / name).read_text()
        assert text == (tmp_path / name).read_text()
        root = ElementTree.fromstring(text)
        assert root.tag == SVG + "svg"
        assert root.get("role") == "img"
        assert "imulated night" in root.get("aria-label")
        assert len(text) < 150_000
        assert "var(--" not in text
        assert "currentColor" not in text
        assert not re.search(r'(href|src)="(?!#)', text)  # nothing is fetched


def test_ten_seconds_show_a_plain_heartbeat(night):
    sensed = night_pictures.sense(night, 0)
    start_s = night_pictures.quiet_start_s(night, sensed)
    drive = night.drive
    around = slice(int((start_s - 20) * DRIVE_HZ), int((start_s + 30) * DRIVE_HZ))
    assert not drive.movement[around].any()
    inside = (drive.beat_times_s > start_s) & (drive.beat_times_s < start_s + night_pictures.SPAN_S)
    assert drive.beat_normal[inside].all()
    # Another reading of the same signals finds the marks.
    found = j_peaks(Series.of(sensed.bcg.values, night_pictures.BCG_HZ)).times_s
    marks = sensed.bcg.j_times_s[inside]
    assert len(matched(marks, found)[0]) >= 0.8 * len(marks)
    at_r = np.rint(drive.beat_times_s[inside] * night_pictures.ECG_HZ).astype(int)
    assert (sensed.ecg[at_r] > 0.4).all()
