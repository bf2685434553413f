"""All faults by name."""

from __future__ import annotations

from jepsen_like import (
    faults_behind,
    faults_clock,
    faults_disk,
    faults_load,
    faults_net,
    faults_partition,
    faults_pause,
    faults_points,
    faults_process,
    faults_rpc,
    faults_state,
    faults_twice,
)
from jepsen_like.fault import Fault
from jepsen_like.place import Place

_PARTS = (
    faults_process,
    faults_twice,
    faults_points,
    faults_pause,
    faults_partition,
    faults_net,
    faults_rpc,
    faults_load,
    faults_disk,
    faults_state,
    faults_behind,
    faults_clock,
)
FAULTS: dict[str, type[Fault]] = {fault.name: fault for part in _PARTS for fault in part.FAULTS}


def possible(place: Place) -> list[type[Fault]]:
    """What can be done at `place`."""
    return [fault for fault in FAULTS.values() if not fault.impossible(place)]


def impossible(place: Place) -> dict[str, str]:
    """What cannot be done there, and why."""
    return {name: why for name, fault in FAULTS.items() if (why := fault.impossible(place))}
