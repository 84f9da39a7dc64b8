"""The TFDS dataset `shhs_bcg`; importing this registers its builder."""

from kd_sleep.extras import optional_packages

with optional_packages():
    from kd_sleep.datasets.shhs_bcg.build import build, dry_run, exclusions
    from kd_sleep.datasets.shhs_bcg.shhs_bcg_dataset_builder import Builder

__all__ = ["Builder", "build", "dry_run", "exclusions"]
