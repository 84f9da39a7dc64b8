"""The TFDS dataset `shhs_bcg`; importing this registers its builder."""

from kd_sleep.datasets.shhs_bcg.shhs_bcg_dataset_builder import Builder, build, exclusions

__all__ = ["Builder", "build", "exclusions"]
