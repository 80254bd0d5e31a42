"""Measuring detectors: run one over a split (`detect`), score what it found as COCO does (`coco`)."""
