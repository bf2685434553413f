"""Workers find out who cannot reach whom, and say so once (S2-19)."""

from __future__ import annotations

from worker.detector import HELPERS, Changed, Detector, Probe

PEERS = {f"w{number}": f"w{number}:1" for number in range(6)}


def cluster(cut: set[tuple[str, str]]) -> dict[str, list[Changed]]:
    """Four rounds of all workers, with these links cut in this direction; what each worker reports."""
    detectors = {worker: Detector(worker) for worker in PEERS}
    news: dict[str, list[Changed]] = {worker: [] for worker in PEERS}

    def reaches(source: str, target: str) -> bool:
        return (source, target) not in cut and (target, source) not in cut

    for detector in detectors.values():
        detector.set_peers(PEERS)
    for _ in range(4 * len(PEERS)):
        for worker, detector in detectors.items():
            probe = detector.period()
            assert probe is not None
            if reaches(worker, probe.target):
                found = detector.answered(probe.target)
            else:
                detours = detector.missed(probe.target)
                answers = [reaches(worker, d.via) and reaches(d.via, d.target) for d in detours]
                found = detector.judged(probe.target, answers)
            news[worker] += [found] if found else []
    return news


def test_a_healthy_cluster_is_silent() -> None:
    assert all(found == [] for found in cluster(set()).values())


def test_a_dead_worker_is_reported_by_all_with_the_agreement_of_others() -> None:
    news = cluster({("w5", other) for other in PEERS})
    for worker in PEERS.keys() - {"w5"}:
        assert news[worker][0] == Changed("w5", reachable=False, asked=HELPERS, agreed=HELPERS)


def test_a_broken_link_is_told_from_a_dead_worker() -> None:
    """FD7: one pair cannot talk; a heartbeat to the master alone would never show it."""
    news = cluster({("w1", "w2")})
    assert news["w1"] == [Changed("w2", reachable=False, asked=HELPERS, agreed=0)]
    assert news["w2"] == [Changed("w1", reachable=False, asked=HELPERS, agreed=0)]
    assert all(news[worker] == [] for worker in PEERS.keys() - {"w1", "w2"})


def test_recovery_is_news_once() -> None:
    detector = Detector("w0")
    detector.set_peers(PEERS)
    assert detector.judged("w1", []) == Changed("w1", reachable=False)
    assert detector.judged("w1", []) is None
    assert detector.answered("w1") == Changed("w1", reachable=True)
    assert detector.answered("w1") is None


def test_every_peer_has_its_turn_in_every_round() -> None:
    detector = Detector("w0")
    detector.set_peers(PEERS)
    for _ in range(3):
        probes = [detector.period() for _ in range(len(PEERS) - 1)]
        assert sorted(p.target for p in probes if p) == sorted(PEERS.keys() - {"w0"})


def test_alone_there_is_nobody_to_watch() -> None:
    detector = Detector("w0")
    detector.set_peers({"w0": "here"})
    assert detector.period() is None
    assert detector.missed("w9") == []
    assert detector.judged("w9", []) is None


def test_those_in_doubt_are_not_asked_about_others() -> None:
    detector = Detector("w0")
    detector.set_peers({"w1": "", "w2": "", "w3": ""})
    detector.judged("w1", [])
    assert Probe("w2", "w1") not in detector.missed("w2")
