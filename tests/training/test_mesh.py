"""Eight devices: columns and batches are cut over them, and no column is ever whole on one."""

import json
import os
import subprocess
import sys

import pytest

from kd_sleep.errors import ConfigError
from kd_sleep.training import mesh as mesh_module
from kd_sleep.training.mesh import data_mesh, local_rows

# Devices are counted when JAX starts, so all of it runs in one process of its own.
PROGRAM = """
import functools, json, re
import jax, numpy as np
from kd_sleep.datasets.batches import Crops, Sequences, gather
from kd_sleep.errors import TrainingError
from kd_sleep.training.feeds import resident_feed, upload
from kd_sleep.training.mesh import cut, data_mesh, local_rows, put, whole
from kd_sleep.training.steps import gather_cut

WINDOWS, LENGTH = np.array([100, 37, 64, 1, 250, 40]), 12
W = int(WINDOWS.sum())
rng, mesh, found = np.random.default_rng(0), data_mesh(), {}
columns = {
    "label": rng.integers(-1, 4, W).astype(np.int8),
    "bcg": rng.integers(-32768, 32768, (W, 7)).astype(np.int16),
    "hrv": rng.normal(size=(W, 5)).astype(np.float32),
    "bcg_scale": (1e-3 * rng.normal(size=W)).astype(np.float32),
    "tachogram_valid": rng.random((W, 6)) < 0.5,
    "teacher_logits": rng.normal(size=(W, 2, 4)).astype(np.float32),
}

def same(array, expected):
    return array.dtype == expected.dtype and np.array_equal(np.asarray(array), expected)

uploaded = upload(columns, mesh)
found["devices"], found["windows"] = mesh.size, W
found["rows_of_shards"] = sorted(
    {shard.data.shape[0] for array in uploaded.values() for shard in array.addressable_shards}
)
found["uploaded"] = {
    name: same(array[:W], columns[name]) and not np.asarray(array[W:]).any()
    for name, array in uploaded.items()
}
few = upload({"label": columns["label"][:3]}, mesh)["label"]  # less than a row a device
found["few"] = [few.shape[0], np.array_equal(np.asarray(few)[:3], columns["label"][:3])]

# Places all over the nights; some begin before a night, some end after it.
night = rng.integers(0, len(WINDOWS), (6, 16))
low, size = (np.cumsum(WINDOWS) - WINDOWS)[night], WINDOWS[night]
begin = low + rng.integers(1 - LENGTH, size)
places = np.stack([begin, low, low + size], axis=1).astype(np.int32)  # six batches of sixteen
places = [Sequences(*place) for place in places]
places.append(Crops(WINDOWS, 16, LENGTH, 3).sequences(5))

def compiled(function, out):
    jitted = jax.jit(function, in_shardings=(cut(mesh), whole(mesh)), out_shardings=out)
    return jitted.lower(uploaded, places[0]).compile()

gathering = compiled(functools.partial(gather_cut, length=LENGTH, mesh=mesh), cut(mesh))
batches = [gathering(uploaded, jax.device_put(where, whole(mesh))) for where in places]
expected = [gather(columns, where, LENGTH) for where in places]
found["beyond"] = [bool((~e["valid_BL"][:, edge]).any()) for e in expected for edge in (0, -1)]
found["gathered"] = {
    name: all(same(b[name], e[name]) for b, e in zip(batches, expected)) for name in expected[0]
}
found["keys"] = batches[0].keys() == expected[0].keys()

padded = uploaded["label"].shape[0]
def whole_columns(text):
    return re.findall(rf"\\w+\\[{padded}\\b[^ ]*", text) + re.findall("all-gather", text)
found["whole_columns"] = whole_columns(gathering.as_text())
found["whole_columns_otherwise"] = whole_columns(
    compiled(lambda columns, where: gather(columns, where, LENGTH), cut(mesh)).as_text()
)

# A sweep's members are dealt out to the devices, and each device sees the whole batch.
gathering_whole = compiled(
    functools.partial(gather_cut, length=LENGTH, mesh=mesh, batch_sharding=whole(mesh)), whole(mesh)
)
gathered_whole = gathering_whole(uploaded, jax.device_put(places[0], whole(mesh)))
put_whole = put(expected[0], mesh, members=16)
found["members"] = {
    name: all(
        same(array, expected[0][name]) and array.sharding.is_fully_replicated
        for array in (gathered_whole[name], put_whole[name])
    )
    for name in expected[0]
}
found["members_whole_columns"] = whole_columns(gathering_whole.as_text())
found["members_rows"] = str([local_rows(mesh, 12, members=16), local_rows(mesh, 16, members=9)])

batch = put(expected[0], mesh)
found["put"] = {
    name: same(array, expected[0][name])
    and [shard.data.shape[0] for shard in array.addressable_shards] == [2] * 8
    for name, array in batch.items()
}

crops = Crops(WINDOWS, 16, LENGTH, 3)
(item,) = resident_feed(upload(columns, mesh), crops, mesh, dispatch_steps=3)(4, 7, 7)
found["resident"] = [
    same(
        gathering(item.arguments[0], Sequences(*(a[n] for a in item.arguments[1])))["bcg"],
        gather(columns, crops.sequences(4 + n), LENGTH)["bcg"],
    )
    for n in range(item.steps)
]
errors = {}
for name, attempt in {
    "local_rows": lambda: local_rows(mesh, 12),
    "resident_feed": lambda: resident_feed(columns, Crops(WINDOWS, 12, LENGTH, 3), mesh),
}.items():
    try:
        attempt()
    except TrainingError as error:
        errors[name] = str(error)
found["errors"] = errors
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.splitlines()[-1])


def test_uploaded_columns_are_padded_and_cut(found):
    assert found["devices"] == 8
    assert found["windows"] % 8
    assert found["rows_of_shards"] == [-(-found["windows"] // 8)]
    assert set(found["uploaded"].values()) == {True}, found["uploaded"]
    assert found["few"] == [8, True]


def test_gathering_from_cut_columns_equals_numpy(found):
    assert found["keys"]
    assert any(found["beyond"][::2])  # else no mask at a night's beginning, or end, was seen
    assert any(found["beyond"][1::2])
    assert set(found["gathered"].values()) == {True}, found["gathered"]


def test_no_device_ever_holds_a_whole_column(found):
    assert found["whole_columns_otherwise"]  # what XLA makes of a plain gather: the search finds it
    assert found["whole_columns"] == []


def test_a_batch_is_cut_over_the_devices(found):
    assert set(found["put"].values()) == {True}, found["put"]


def test_members_that_come_out_even_see_whole_batches(found):
    """Of columns that are cut all the same; nine members on eight devices see cut batches."""
    assert set(found["members"].values()) == {True}, found["members"]
    assert found["members_whole_columns"] == []
    assert found["members_rows"] == str([slice(None), slice(0, 16)])


def test_places_of_a_resident_feed_find_the_batches(found):
    assert found["resident"] == [True] * 3


def test_a_batch_that_does_not_divide_names_itself_and_the_devices(found):
    for name in ("local_rows", "resident_feed"):
        assert "--batch_size=12" in found["errors"][name]
        assert "8 devices" in found["errors"][name]


def test_one_device_takes_every_batch():
    """A mesh of one: no batch size is wrong."""
    mesh = data_mesh()
    if mesh.size > 1:
        pytest.skip("needs a machine with one device")
    for size in (1, 7):
        assert local_rows(mesh, size) == slice(0, size)


def test_a_platform_that_is_absent_is_named_with_its_variable(monkeypatch):
    for failure in (RuntimeError("Unable to initialize backend"), AssertionError()):

        def fail(failure=failure):
            raise failure

        monkeypatch.setattr(mesh_module.jax, "default_backend", fail)
        with pytest.raises(ConfigError, match=r"JAX_PLATFORMS=.* no such device") as caught:
            mesh_module.default_platform()
        assert "Unset JAX_PLATFORMS" in caught.value.remedy
