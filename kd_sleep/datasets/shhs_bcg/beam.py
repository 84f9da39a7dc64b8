"""The same work on Apache Beam, for clusters: Dataflow, Flink, Spark.

Workers read the nights' files and write finished nights, so all of them must see both folders
under the same names (NFS, Lustre, Filestore, a mounted bucket).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from kd_sleep.extras import optional_packages


def map_on_beam(function: Callable[[Any], None], items: Sequence[Any], options: str) -> None:
    """Calls function(item) for every item on Beam's workers, and waits for them.

    Args:
      function: picklable, as are the items.
      items: one per night.
      options: Beam's own command line, such as `--runner=FlinkRunner --flink_master=HOST:8081`.

    Raises:
      MissingPackage: Beam is not installed.
    """
    with optional_packages():
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    with beam.Pipeline(options=PipelineOptions(shlex.split(options))) as pipeline:
        # Reshuffle: else a runner fuses the list with the work and gives it all to one worker.
        _ = pipeline | beam.Create(items) | beam.Reshuffle() | beam.Map(function)
