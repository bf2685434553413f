"""Every setting there is: its section, name, type, default and meaning. Data only; mr/config.py fills it in.

A type says how text is read: `Size` from "64MiB" to bytes, `Seconds` from "30s" to a float, `Names` from
"a,b" or a list. A field's comment is its documentation. Settings of a job stand in its code and travel with
it (S1-11); `[job.defaults]` only fills what the job file leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

Size = Annotated[int, "size"]
Seconds = Annotated[float, "duration"]
Names = Annotated[tuple[str, ...], "names"]
Place = Annotated[Path | None, "path"]  # relative paths are relative to the file that names them
Deadline = Annotated[float, "deadline"]  # seconds; 0.0 = "adaptive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """[cluster] which masters to talk to."""

    masters: Names = ()  # host or host:port of some or all masters; 7070 if no port is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """[auth] who we are, where tokens are used."""

    token: str = ""
    token_file: Place = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """[tls] certificates. `dir` is a folder filled by `mr tls init`; single files win over it."""

    dir: Place = None
    ca: Place = None
    cert: Place = None
    key: Place = None
    insecure: bool = False  # plaintext; only ever to loopback


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """[log] what servers write to stderr or to `--log-dir`."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Master:
    """[master] one `mr-master`."""

    data_dir: Place = None  # default: `mr/master-ID` in the user's data folder
    election_timeout: Seconds = 0.3  # at least; at most twice that, at random
    heartbeat: Seconds = 0.05
    snapshot_every: int = 50_000  # log entries
    worker_heartbeat: Seconds = 1.0
    worker_lease: Seconds = 10.0  # silence after which a worker is lost
    policy: str = "locality"
    history: Seconds = 7 * 86400.0  # finished jobs are forgotten after this
    history_jobs: int = 1000
    log_dir: Place = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """[worker] one `mr-worker`."""

    slots: int = 0  # tasks at once; 0 = one for each core
    memory: Size = 0  # for all tasks together; 0 = three quarters of the machine's
    work_dir: Place = None  # default: `mr/worker` in the user's data folder
    labels: Names = ()
    log_dir: Place = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blacklist:
    """[worker.blacklist] timed exclusion of a worker on which tasks of one job keep failing (S3-21)."""

    after: int = 3  # failures
    for_: Seconds = field(default=600.0, metadata={"name": "for"})
    permanent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDefaults:
    """[job.defaults] what a job file and the flags leave open."""

    split_size: Size = 64 * 2**20
    reduces: int = 8
    task_deadline: Deadline = 0.0  # "adaptive", or a duration like "10m" (S3-19)
    shuffle: Literal["local"] = "local"  # map outputs stay on the disk of their worker (S1-25)
    skip_bad: int = 0
    max_attempts: int = 4
    queue: str = "default"
    priority: int = 50
    speculate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """[context.NAME] another cluster, chosen by `--context NAME` or MR_CONTEXT."""

    masters: Names = ()
    token_file: Place = None
    tls_dir: Place = None
    ca: Place = None
    cert: Place = None
    key: Place = None


# Section as written in TOML -> its type.
SECTIONS: dict[str, type] = {
    "cluster": Cluster,
    "auth": Auth,
    "tls": Tls,
    "log": Log,
    "master": Master,
    "worker": Worker,
    "worker.blacklist": Blacklist,
    "job.defaults": JobDefaults,
}

# Short environment names -> setting. Any other setting is MR_SECTION__KEY, dots becoming two underscores.
ENVIRONMENT: dict[str, str] = {
    "MR_MASTERS": "cluster.masters",
    "MR_TOKEN": "auth.token",
    "MR_TOKEN_FILE": "auth.token_file",
    "MR_QUEUE": "job.defaults.queue",
    "MR_LOG": "log.level",
}

# A context's key -> the setting it sets.
CONTEXT_KEYS: dict[str, str] = {
    "masters": "cluster.masters",
    "token_file": "auth.token_file",
    "tls_dir": "tls.dir",
    "ca": "tls.ca",
    "cert": "tls.cert",
    "key": "tls.key",
}
