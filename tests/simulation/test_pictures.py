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
from kd_sleep.simulation import pictures, validation
from kd_sleep.simulation.physiology import DRIVE_HZ
from kd_sleep.simulation.validate_sensors import matched

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
    pictures.write_pictures(out, night, 0)
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


def test_a_seed_gives_the_same_bytes(folder, night, tmp_path):
    pictures.write_pictures(tmp_path, night, 0)
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    pictures.write_pictures(tmp_path, night, 1)
    assert (tmp_path / NAMES[1]).read_bytes() != (folder / NAMES[1]).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_stands_alone(folder, name):
    """As an <img> sees it: no page around it, so its own namespace, ground and inks."""
    text = (folder / name).read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == SVG + "svg"
    assert root.get("role") == "img"
    assert "imulated night" in root.get("aria-label")
    assert len(text) < 150_000
    assert "var(--" not in text
    assert "currentColor" not in text
    assert "#ffffff" in text
    assert not re.search(r'(href|src)="(?!#)', text)  # nothing is fetched
    assert "url(http" not in text


def test_ten_seconds_show_a_plain_heartbeat(night):
    sensed = pictures.sense(night, 0)
    start_s = pictures.quiet_start_s(night, sensed)
    drive = night.drive
    around = slice(int((start_s - 20) * DRIVE_HZ), int((start_s + 30) * DRIVE_HZ))
    assert not drive.movement[around].any()
    inside = (drive.beat_times_s > start_s) & (drive.beat_times_s < start_s + pictures.SPAN_S)
    assert drive.beat_normal[inside].all()
    delay_s = (sensed.j_times_s - drive.beat_times_s)[inside]
    assert ((delay_s >= 0.150) & (delay_s <= 0.300)).all()
    # Another reading of the same signals finds the marks.
    found = j_peaks(Series.of(sensed.bcg, pictures.BCG_HZ)).times_s
    marks = sensed.j_times_s[inside]
    assert len(matched(marks, found)[0]) >= 0.8 * len(marks)
    at_r = np.rint(drive.beat_times_s[inside] * pictures.ECG_HZ).astype(int)
    assert (sensed.ecg[at_r] > 0.4).all()
