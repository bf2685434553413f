"""What kinds of bad luck there are: biases of the one seeded generator, as data.

Chance alone hardly ever needs some rules (who votes twice in a term, an entry of an old term on a majority, a
vote that a lost disk forgot). A theme makes what such a rule is for likely, by the mix of its faults, by slow
messages, by members that come back at once; it is no trace written by hand, and every ordinary run draws from all of
them. Half of the seeds are `plain`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from consensus.wire import ANSWER, APPEND, PIECE, PIECE_ANSWER, VOTE, VOTED
from tests.simulation.consensus.network import MODES


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """One kind of bad luck."""

    members: tuple[int, ...] = (3, 3, 5)
    networks: tuple[str, ...] = ("tcp", "tcp", *MODES)
    snapshots: float = 0.6  # the share of histories that compact their logs
    compact_entries: int = 25
    small_appends: float = 0.5  # the share of histories with appends of a few entries
    entry_an_append: bool = False  # one entry an append, and one append at a time
    disk_losses: float = 0.5  # the share of histories in which disks are lost, if the network allows
    faults: Mapping[str, int] = field(default_factory=dict)  # name -> weight
    gap_s: tuple[float, float] = (0.1, 1.2)  # between two faults
    slow: Mapping[str, tuple[float, float]] = field(
        default_factory=dict
    )  # message -> share of late ones, seconds
    twice: Mapping[str, tuple[float, float]] = field(
        default_factory=dict
    )  # the same, of those that come twice
    clocks_jump: bool = False  # a later life of a process may have an earlier time of day
    call_s: float = 0.06  # between the calls of clients, on average
    favourite: bool = False  # only the first member's terms are spoilt
    quick: bool = False  # a process is back within milliseconds, and so are its sessions
    reads: float = 0.25  # the share of reads among the calls
    keys: str = "xyzuvw"
    deposed_readers: bool = (
        False  # most reads go to the leader of the oldest term that still believes in itself
    )
    one_leader: bool = False  # nothing happens that would justify a second election (C13)
    calm: bool = False  # a network of a few milliseconds, in order, that loses nothing


THEMES = {
    "plain": Theme(),
    # Two candidates at once, voters that die just after they voted, requests and votes that come late.
    "votes": Theme(
        members=(3, 5, 5),
        networks=("tcp", "stale", "stale", "dup", "reorder"),
        snapshots=0.1,
        disk_losses=0.0,
        faults={
            "rivals": 8,
            "power_cut_voter": 6,
            "isolate_leader": 1,
            "crash": 1,
            "partition": 1,
            "transfer": 1,
        },
        gap_s=(0.02, 0.4),
        slow={VOTE: (0.4, 0.15), VOTED: (0.3, 0.3)},
        twice={VOTED: (0.3, 0.03)},
        quick=True,
    ),
    # Leaders that reach a few members, with one entry at a time, and die; five members.
    "figure 8": Theme(
        members=(5,),
        networks=("tcp",),
        snapshots=0.0,
        entry_an_append=True,
        disk_losses=0.0,
        faults={"spoil_next_leader": 12, "rivals": 2, "crash_leader": 1},
        gap_s=(0.05, 0.25),
        quick=True,
    ),
    # Acknowledgements that come after their term, of entries that few had; leaders that come again.
    "late answers": Theme(
        members=(5,),
        networks=("reorder", "reorder", "dup", "stale"),
        snapshots=0.1,
        disk_losses=0.0,
        faults={"deaf_leader": 5, "favourite_stands": 8, "partition": 1},
        gap_s=(0.1, 0.3),
        slow={ANSWER: (0.4, 2.0)},
        call_s=0.03,
        favourite=True,
    ),
    # Disks that are lost one after another, in the middle of elections.
    "disks": Theme(
        members=(3, 3, 3, 5),
        networks=("tcp",),
        snapshots=0.3,
        disk_losses=1.0,
        faults={
            "swap_disk": 3,
            "swap_voter": 3,
            "swap_between": 12,
            "rivals": 3,
            "isolate_leader": 2,
            "partition": 2,
            "crash": 1,
            "transfer": 1,
        },
        gap_s=(0.1, 0.8),
        slow={VOTED: (0.3, 0.3), ANSWER: (0.1, 0.5)},
        quick=True,
        clocks_jump=True,
    ),
    # A follower that helps another into office, loses its disk, and comes back to the old leader alone.
    "lost voters": Theme(
        members=(3,),
        networks=("tcp",),
        snapshots=0.1,
        disk_losses=1.0,
        faults={"swap_between": 1},
        gap_s=(0.7, 1.2),
        call_s=0.02,
        quick=True,
        clocks_jump=True,
    ),
    # Leaders that are deposed and do not know it yet, and clients that ask them.
    "reads": Theme(
        members=(3, 3, 5),
        snapshots=0.1,
        disk_losses=0.0,
        faults={"isolate_leader_from_members": 8, "pause_leader": 2, "transfer": 2, "crash_leader": 1},
        gap_s=(0.2, 0.8),
        slow={ANSWER: (0.05, 0.5)},
        reads=0.6,
        call_s=0.02,
        keys="xy",
        deposed_readers=True,
    ),
    # Snapshots on their way while the log goes on, late and twice.
    "snapshots": Theme(
        members=(3, 3, 5),
        networks=("tcp", "stale", "reorder", "dup", "drop"),
        snapshots=1.0,
        compact_entries=10,
        disk_losses=0.2,
        faults={
            "partition": 5,
            "crash": 4,
            "snapshot": 3,
            "reset": 3,
            "isolate_leader": 2,
            "crash_at_operation": 4,
        },
        gap_s=(0.1, 0.6),
        slow={PIECE: (0.3, 1.5), PIECE_ANSWER: (0.2, 1.0), APPEND: (0.02, 1.0)},
    ),
    # Power cuts at every moment, of one member or of all.
    "power": Theme(
        snapshots=0.6,
        disk_losses=0.0,
        faults={
            "power_cut": 6,
            "power_cut_after": 6,
            "power_cut_all": 3,
            "crash_at_operation": 3,
            "slow_disk": 2,
        },
        gap_s=(0.05, 0.5),
        quick=True,
    ),
    # Followers that are away and come back, one at a time, from a leader that is well.
    "returning": Theme(
        networks=("tcp",),
        disk_losses=0.0,
        faults={"followers_away": 8, "follower_paused": 3, "follower_crashes": 3, "follower_slow": 2},
        gap_s=(0.3, 1.5),
        call_s=0.5,
        one_leader=True,
        calm=True,
    ),
}
