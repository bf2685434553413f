"""Configuration: layers in their order, origins, units, and typing mistakes that are errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from mr import config, settings
from mr.errors import Usage

EXAMPLE = """
[cluster]
masters = ["h1:7070", "h2:7070", "h3:7070"]
[auth]
token_file = "token"
[tls]
ca = "ca.pem"
cert = "me.pem"
key = "me.key"
[master]
election_timeout = "300ms"
heartbeat = "50ms"
snapshot_every = 50000
[worker]
slots = 8
memory = "24GiB"
work_dir = "work"
blacklist = { after = 3, for = "10m", permanent = false }
[job.defaults]
split_size = "64MiB"
reduces = 8
task_deadline = "adaptive"
shuffle = "local"
skip_bad = 0
[context.prod]
masters = ["m1", "m2", "m3"]
"""


def written(folder: Path, text: str, name: str = "mr.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_the_example_of_the_interface_is_read(tmp_path: Path) -> None:
    file = written(tmp_path / "place", EXAMPLE, "some.toml")
    found = config.load(config_file=file, env={}, cwd=tmp_path)
    assert found.cluster.masters == ("h1:7070", "h2:7070", "h3:7070")
    assert found.tls == settings.Tls(
        ca=file.parent / "ca.pem", cert=file.parent / "me.pem", key=file.parent / "me.key"
    )
    assert found.master.election_timeout == pytest.approx(0.3)
    assert (found.worker.slots, found.worker.memory) == (8, 24 * 2**30)
    assert found.blacklist == settings.Blacklist(after=3, for_=600.0, permanent=False)
    assert (found.job.split_size, found.job.task_deadline) == (64 * 2**20, 0.0)


def test_the_last_layer_wins_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in, system, user, project, --config, environment, flags."""
    layers = [f'[cluster]\nmasters = ["{name}"]\n' for name in ("system", "user", "project", "given")]
    monkeypatch.setattr(config, "SYSTEM_FILE", written(tmp_path / "etc", layers[0]))
    user = written(tmp_path / "home/mr", layers[1], "config.toml")
    project = written(tmp_path / "project", layers[2])
    given = written(tmp_path / "given", layers[3])
    env = {"XDG_CONFIG_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    deep = tmp_path / "project/a/b"
    deep.mkdir(parents=True)

    def masters(**more: object) -> tuple[str, str]:
        found = config.load(**more)  # type: ignore[arg-type]  # each row gives the keywords of load
        return found.cluster.masters[0] if found.cluster.masters else "", found.origins.get(
            "cluster.masters", ""
        )

    assert masters(env=env, cwd=tmp_path) == ("user", str(user))
    assert masters(env=env, cwd=deep) == ("project", str(project))
    assert masters(env=env, cwd=deep, config_file=given) == ("given", str(given))
    assert masters(env={**env, "MR_CONFIG": str(given)}, cwd=deep) == ("given", str(given))
    named = {**env, "MR_MASTERS": "env,env2"}
    assert masters(env=named, cwd=deep, config_file=given) == ("env", "environment MR_MASTERS")
    assert masters(env=named, cwd=deep, flags={"cluster.masters": "flag"}) == ("flag", "flag")
    user.unlink()
    assert masters(env=env, cwd=tmp_path) == ("system", str(config.SYSTEM_FILE))
    config.SYSTEM_FILE.unlink()
    assert masters(env=env, cwd=tmp_path) == ("", "")


def test_pyproject_counts_when_it_has_our_table(tmp_path: Path) -> None:
    written(tmp_path, "[tool.mr.worker]\nslots = 3\n", "pyproject.toml")
    assert config.load(env={}, cwd=tmp_path).worker.slots == 3


def test_a_context_goes_above_the_files_and_below_the_environment(tmp_path: Path) -> None:
    written(tmp_path, EXAMPLE)
    found = config.load(context="prod", env={}, cwd=tmp_path)
    assert found.cluster.masters == ("m1", "m2", "m3")
    assert found.origins["cluster.masters"].endswith("mr.toml [context.prod]")
    assert config.load(env={"MR_CONTEXT": "prod", "MR_MASTERS": "x"}, cwd=tmp_path).cluster.masters == ("x",)


def test_any_key_by_environment(tmp_path: Path) -> None:
    env = {
        "MR_MASTER__HEARTBEAT": "20ms",
        "MR_JOB__DEFAULTS__REDUCES": "3",
        "MR_WORKER__BLACKLIST__FOR": "1m",
        "MR_QUEUE": "night",
        "MR_JOB_ID": "wc-1",  # a task's own variable is no setting
    }
    found = config.load(env=env, cwd=tmp_path)
    assert found.master.heartbeat == pytest.approx(0.02)
    assert (found.job.reduces, found.job.queue, found.blacklist.for_) == (3, "night", 60.0)


MISTAKES = [
    ("[worker]\nslot = 3\n", "unknown key 'slot' in \\[worker\\]; did you mean 'slots'"),
    ("[workers]\nslots = 3\n", "unknown section \\[workers\\]; did you mean 'worker'"),
    (
        "[worker.blacklist]\nafter_all = 3\n",
        "unknown key 'after_all' in \\[worker.blacklist\\]; did you mean 'after'",
    ),
    ("[job.default]\nreduces = 3\n", "unknown key 'default' in \\[job\\]; did you mean 'defaults'"),
    ("[context.prod]\nmaster = 'x'\n", "unknown key 'master' in \\[context.prod\\]; did you mean 'masters'"),
    ("[worker]\nslots = 'many'\n", "worker.slots .* is not a whole number"),
    ("[worker]\nmemory = '3 bananas'\n", "worker.memory .* is not a size"),
    ("[log]\nlevel = 'warn'\n", "not one of: debug, info, warning, error; did you mean 'warning'"),
    ("[tls]\ninsecure = 'perhaps'\n", "neither true nor false"),
    ("cluster = 3\n", "cluster is a section"),
    ("[worker\n", "mr.toml"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[text[:24] for text, _ in MISTAKES])
def test_a_mistake_is_an_error_with_a_hint(tmp_path: Path, text: str, message: str) -> None:
    written(tmp_path, text)
    with pytest.raises(Usage, match=message):
        config.load(env={}, cwd=tmp_path)


def test_a_mistake_in_the_environment_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="did you mean 'MR_WORKER__SLOTS'"):
        config.load(env={"MR_WORKER__SLOT": "3"}, cwd=tmp_path)
    with pytest.raises(Usage, match="no context 'nowhere'"):
        config.load(env={"MR_CONTEXT": "nowhere"}, cwd=tmp_path)
    with pytest.raises(Usage, match="no configuration file"):
        config.load(env={"MR_CONFIG": "nowhere.toml"}, cwd=tmp_path)


def test_every_setting_is_shown_as_it_would_be_written(tmp_path: Path) -> None:
    """What `show` prints may be written back, and means the same."""
    written(tmp_path, EXAMPLE)
    before = config.load(env={"MR_TOKEN": "secret"}, cwd=tmp_path)
    rows = {key: value for key, value, _ in before.rows()}
    assert rows["auth.token"] == "(hidden)"
    assert rows["worker.memory"] == "24GiB"
    again = {f"MR_{k.replace('.', '__').upper()}": v for k, v in rows.items() if v and k != "auth.token"}
    after = config.load(env=again, cwd=tmp_path / "nowhere")
    assert (after.master, after.worker, after.job, after.tls) == (
        before.master,
        before.worker,
        before.job,
        before.tls,
    )
