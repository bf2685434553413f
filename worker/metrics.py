"""What a worker counts, by the names of the product's metrics. No label is a task's or a worker's id."""

from prometheus_client import Counter, Gauge, Histogram

ATTEMPTS = Counter("mr_task_attempts", "Attempts that ended here", ["kind", "result"])
TASK_SECONDS = Histogram(
    "mr_task_seconds",
    "From the start of a task to its end",
    ["kind"],
    buckets=(0.01, 0.1, 1, 10, 60, 600, 3600),
)
RUNNING = Gauge("mr_worker_tasks", "Attempts in hand")
HELD = Gauge("mr_worker_map_outputs", "Map outputs kept for reduces")
MEMORY = Gauge("mr_worker_memory_bytes", "Memory of all task processes together")
DISK_FREE = Gauge("mr_worker_disk_free_bytes", "Free in the work dir")
SHUFFLE_BYTES = Counter("mr_shuffle_bytes", "Map output moved between workers", ["dir"])
SPILL_BYTES = Counter("mr_spill_bytes", "Written to disk by maps whose output did not fit in memory")
DAMAGE = Counter(
    "mr_shuffle_damage", "Times that fetched data failed its checksums, also when a retry was good"
)
FETCH_FAILURES = Counter("mr_shuffle_fetch_failures", "Regions that could not be fetched", ["cause"])
SESSIONS = Counter("mr_worker_sessions", "Sessions begun with a leader")
