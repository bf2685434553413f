"""What the leader is told at start. Durations in seconds, of the leader's monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderConfig:
    """Equal on all masters, but for `id`."""

    id: str
    cluster_id: str = ""
    version: str = ""
    heartbeat_s: float = 1.0
    # Silence after which a worker is given up and its attempts are reassigned. Shorter finds deaths sooner, longer
    # forgives a pause. Must outlast an election, or every election costs all workers.
    lease_s: float = 10.0
    policy: str = "locality"  # a name in scheduler.POLICIES; a job may ask for another
    placement: str = ""  # a name in scheduler.PLACEMENTS
    slow_start: float = 0.05  # share of a step's maps that is done before its reduces start
    reduce_share: float = 0.5  # of all slots that reduces may hold while maps of their step wait
    batch: int = 1000  # commands in one entry
    # A task is backed up when it runs longer than this many times the median of its kind, and beyond the noise.
    backup_factor: float = 1.5
    backup_least_s: float = 2.0  # never back up what is younger
    backup_share: float = 0.1  # of the running tasks of a kind that may have a backup; at least one
    exclude_after: int = 3  # strikes within exclude_s
    exclude_s: float = 600.0
    exclude_for_good: bool = False  # until an operator includes it again, instead of for exclude_s
    starved_s: float = 30.0  # a runnable job without a slot for this long goes first (T13)
    fetch_patience: int = 3  # failed fetches by one worker alone, before its reduce is moved
    fetch_memory_s: float = 60.0  # how long a failed fetch counts
    retention_jobs: int = 1000  # finished jobs kept whole
    retention_s: float = 7 * 86400.0
    retention_tasks: int = 1_000_000  # tasks of finished jobs kept, all together

    def __post_init__(self) -> None:
        assert self.lease_s > 3 * self.heartbeat_s, "a lease must outlast three heartbeats"
        assert 0 <= self.reduce_share <= 1, "reduce_share is a share"
        assert 0 <= self.slow_start <= 1, "slow_start is a share"
