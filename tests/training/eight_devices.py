"""Run by test_mesh.py in a process with eight CPU devices: they are counted when JAX starts."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
import test_steps as t

from kd_sleep.config import DistillConfig
from kd_sleep.datasets.batches import Crops, Sequences, gather
from kd_sleep.errors import TrainingError
from kd_sleep.training import steps
from kd_sleep.training.feeds import resident_feed, upload
from kd_sleep.training.mesh import data_mesh, local_rows, put, replicated, sharded

WINDOWS, LENGTH = np.array([100, 37, 64, 1, 250, 40]), 12
W = int(WINDOWS.sum())
RNG, MESH = np.random.default_rng(0), data_mesh()
COLUMNS = {
    "label": RNG.integers(-1, 4, W).astype(np.int8),
    "bcg": RNG.integers(-32768, 32768, (W, 7)).astype(np.int16),
    "hrv": RNG.normal(size=(W, 5)).astype(np.float32),
    "tachogram_valid": RNG.random((W, 6)) < 0.5,
    "teacher_logits": RNG.normal(size=(W, 2, 4)).astype(np.float32),
}


def assert_same(array, expected, name=""):
    assert array.dtype == expected.dtype, name
    np.testing.assert_array_equal(np.asarray(array), expected, err_msg=name)


def places():
    """Six batches of sixteen sequences, some of which begin before a night or end after it."""
    night = RNG.integers(0, len(WINDOWS), (6, 16))
    low, size = (np.cumsum(WINDOWS) - WINDOWS)[night], WINDOWS[night]
    begin = low + RNG.integers(1 - LENGTH, size)
    return [Sequences(*p) for p in np.stack([begin, low, low + size], axis=1).astype(np.int32)]


def complete_columns(text, length):
    """Where a program's text has a column that is complete on one device."""
    return re.findall(rf"\w+\[{length}\b[^ ]*", text) + re.findall("all-gather", text)


def columns_are_padded_and_sharded(uploaded):
    rows = {s.data.shape[0] for array in uploaded.values() for s in array.addressable_shards}
    assert W % 8
    assert rows == {-(-W // 8)}
    for name, array in uploaded.items():
        assert_same(array[:W], COLUMNS[name], name)
        assert not np.asarray(array[W:]).any()
    few = upload({"label": COLUMNS["label"][:3]}, MESH)["label"]  # less than a row a device
    assert few.shape[0] == 8
    np.testing.assert_array_equal(np.asarray(few)[:3], COLUMNS["label"][:3])


def gathering_equals_numpy_and_completes_no_column(uploaded):
    some, length = places(), uploaded["label"].shape[0]

    def compiled(function, out):
        inputs = (sharded(MESH), replicated(MESH))
        return jax.jit(function, in_shardings=inputs, out_shardings=out).lower(
            uploaded, some[0]
        ).compile()  # fmt: skip

    expected = [gather(COLUMNS, where, LENGTH) for where in some]
    for edge in (0, -1):  # both ends of a night are masked somewhere
        assert any((~batch["valid_BL"][:, edge]).any() for batch in expected)
    for out in (sharded(MESH), replicated(MESH)):  # the latter where members are sharded
        program = compiled(
            functools.partial(steps.gather_sharded, length=LENGTH, mesh=MESH, batch_sharding=out),
            out,
        )
        assert not complete_columns(program.as_text(), length)
        for where, batch in zip(some, expected, strict=True):
            found = program(uploaded, jax.device_put(where, replicated(MESH)))
            assert found.keys() == batch.keys()
            for name, array in batch.items():
                assert_same(found[name], array, name)
    plain = compiled(lambda columns, where: gather(columns, where, LENGTH), sharded(MESH))
    assert complete_columns(plain.as_text(), length)  # the search finds them


def batches_are_sharded_unless_members_are():
    batch = gather(COLUMNS, places()[0], LENGTH)
    for members, rows in ((0, 2), (16, 16)):
        for name, array in put(batch, MESH, members).items():
            assert_same(array, batch[name], name)
            assert [s.data.shape[0] for s in array.addressable_shards] == [rows] * 8
    assert local_rows(MESH, 12, members=16) == slice(None)
    assert local_rows(MESH, 16, members=9) == slice(0, 16)
    for attempt in (
        lambda: local_rows(MESH, 12),
        lambda: resident_feed(COLUMNS, Crops(WINDOWS, 12, LENGTH, 3), MESH),
    ):
        with pytest.raises(TrainingError, match=r"--batch_size=12 .* 8 devices"):
            attempt()


def a_resident_feed_finds_the_batches(uploaded):
    crops = Crops(WINDOWS, 16, LENGTH, 3)
    (item,) = resident_feed(uploaded, crops, MESH, dispatch_steps=3)(4, 7, 7)
    assert item.steps == 3
    for n in range(3):
        where = jax.device_put(Sequences(*(a[n] for a in item.arguments[1])), replicated(MESH))
        found = steps.gather_sharded(item.arguments[0], where, LENGTH, MESH)
        assert_same(found["bcg"], gather(COLUMNS, crops.sequences(4 + n), LENGTH)["bcg"])


def eight_devices_train_as_one():
    batch, loss = t.with_masks(t.a_batch(8)), DistillConfig()
    columns = {n: a.reshape(64, *a.shape[2:]) for n, a in batch.items() if n != "valid_BL"}
    low = np.arange(0, 64, 8, dtype=np.int32)
    where = Sequences(*(a[None] for a in (low - 2, low, low + 8)))
    train = dataclasses.replace(t.TRAIN, sequence_windows=8)
    objective, settings = steps.distillation_objective(loss), steps.loss_settings(loss)

    def trained(devices, members=0):
        mesh = data_mesh(jax.devices()[:devices])

        def begin(seed):
            return steps.create_state(t.Toy(), train, batch, settings, seed)

        state = jax.vmap(begin)(np.arange(members)) if members else begin(0)
        state = jax.device_put(jax.device_get(state), steps.shardings(mesh, members)[0])
        step = steps.make_train_step(objective, train, mesh, members=members)
        state, _ = step(state, put(batch, mesh, members))
        resident = steps.make_resident_step(objective, train, mesh, members=members)
        state, metrics = resident(state, upload(columns, mesh), where)
        return jax.device_get((state.params, metrics))

    for members in (0, 8, 3):  # none; a member to a device; a part of the batch to each
        one, eight = trained(1, members), trained(8, members)
        t.assert_near(one, eight, rtol=2e-3, atol=2e-5)


if __name__ == "__main__":
    assert MESH.size == 8
    on_devices = upload(COLUMNS, MESH)
    columns_are_padded_and_sharded(on_devices)
    gathering_equals_numpy_and_completes_no_column(on_devices)
    batches_are_sharded_unless_members_are()
    a_resident_feed_finds_the_batches(on_devices)
    eight_devices_train_as_one()
    print("equal")
