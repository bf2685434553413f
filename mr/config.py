"""Configuration in layers, the last one wins, and every value knows who set it.

Built-in, system file, user file, project file (`mr.toml`, or `[tool.mr]` in pyproject.toml), `--config`,
environment, flags. A chosen context counts as part of the file that defines it, but above all files. Unknown
keys are errors with the nearest name, so that a typing mistake is never silently a default.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mr import settings, units
from mr.errors import Usage

SYSTEM_FILE = Path("/etc/mr/config.toml")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, and where each came from. `origins` tells of all that is not built in."""

    cluster: settings.Cluster = field(default_factory=settings.Cluster)
    auth: settings.Auth = field(default_factory=settings.Auth)
    tls: settings.Tls = field(default_factory=settings.Tls)
    log: settings.Log = field(default_factory=settings.Log)
    master: settings.Master = field(default_factory=settings.Master)
    worker: settings.Worker = field(default_factory=settings.Worker)
    blacklist: settings.Blacklist = field(default_factory=settings.Blacklist)
    job: settings.JobDefaults = field(default_factory=settings.JobDefaults)
    origins: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(setting, value as it would be written, origin) of every setting, secrets hidden."""
        sections = {"worker.blacklist": self.blacklist, "job.defaults": self.job}
        for section, kind in settings.SECTIONS.items():
            record = sections.get(section) or getattr(self, section)
            for name, spec in _fields(kind).items():
                key = f"{section}.{name}"
                text = _spell(spec.hint, getattr(record, spec.attribute))
                hidden = "(hidden)" if key == "auth.token" and text else text
                yield key, hidden, self.origins.get(key, "built-in")


@dataclass(frozen=True, slots=True)
class _Field:
    attribute: str
    hint: Any


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config_file: Path | None = None,
    context: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Config:
    """Reads every layer. `flags` maps a setting ("cluster.masters") to text or a value; None is "not given".

    Raises Usage for an unreadable file, an unknown key or context, or a value that does not fit.
    """
    env = os.environ if env is None else env
    layers: list[tuple[str, Mapping[str, Any], Path]] = []  # origin, setting -> raw value, folder for paths
    contexts: dict[str, tuple[str, Mapping[str, Any], Path]] = {}
    for path in _files(config_file, env, cwd or Path.cwd()):
        values, named = _flatten(_read(path), str(path))
        layers.append((str(path), values, path.resolve().parent))
        contexts |= {
            name: (f"{path} [context.{name}]", found, path.resolve().parent) for name, found in named.items()
        }
    chosen = context or env.get("MR_CONTEXT")
    if chosen:
        if chosen not in contexts:
            raise Usage(f"no context {chosen!r}{_nearest(chosen, contexts)}")
        layers.append(contexts[chosen])
    here = cwd or Path.cwd()
    layers += [(f"environment {name}", {key: raw}, here) for name, key, raw in _from_environment(env)]
    layers.append(("flag", {k: v for k, v in (flags or {}).items() if v is not None}, here))
    return _build(layers)


def _build(layers: Iterable[tuple[str, Mapping[str, Any], Path]]) -> Config:
    values: dict[str, dict[str, Any]] = {section: {} for section in settings.SECTIONS}
    origins: dict[str, str] = {}
    for origin, raw_values, folder in layers:
        for key, raw in raw_values.items():
            section, _, name = key.rpartition(".")
            spec = _fields(settings.SECTIONS[section])[name]
            try:
                values[section][spec.attribute] = _parse(spec.hint, raw, folder)
            except Usage as error:
                raise Usage(f"{key} ({origin}): {error}", next=error.next) from None
            origins[key] = origin
    made = {section: kind(**values[section]) for section, kind in settings.SECTIONS.items()}
    return Config(
        cluster=made["cluster"],
        auth=made["auth"],
        tls=made["tls"],
        log=made["log"],
        master=made["master"],
        worker=made["worker"],
        blacklist=made["worker.blacklist"],
        job=made["job.defaults"],
        origins=origins,
    )


def user_config_dir(env: Mapping[str, str] | None = None) -> Path:
    """`mr` in the user's configuration folder (XDG)."""
    env = os.environ if env is None else env
    return Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME") or "~").expanduser() / ".config") / "mr"


def user_data_dir(env: Mapping[str, str] | None = None) -> Path:
    """`mr` in the user's data folder (XDG)."""
    env = os.environ if env is None else env
    default = Path(env.get("HOME") or "~").expanduser() / ".local" / "share"
    return Path(env.get("XDG_DATA_HOME") or default) / "mr"


def _files(config_file: Path | None, env: Mapping[str, str], cwd: Path) -> Iterator[Path]:
    for path in (SYSTEM_FILE, user_config_dir(env) / "config.toml"):
        if path.is_file():
            yield path
    project = _project_file(cwd)
    if project:
        yield project
    given = config_file or (Path(env["MR_CONFIG"]) if env.get("MR_CONFIG") else None)
    if given:
        if not given.is_file():
            raise Usage(f"no configuration file {given}")
        yield given


def _project_file(cwd: Path) -> Path | None:
    """The nearest `mr.toml`, or `pyproject.toml` with `[tool.mr]`, from `cwd` upwards."""
    for folder in (cwd, *cwd.parents):
        if (folder / "mr.toml").is_file():
            return folder / "mr.toml"
        pyproject = folder / "pyproject.toml"
        if pyproject.is_file():
            return pyproject if "mr" in _toml(pyproject).get("tool", {}) else None
    return None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Usage(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    content = _toml(path)
    return dict(content.get("tool", {}).get("mr", {})) if path.name == "pyproject.toml" else content


def _flatten(content: dict[str, Any], where: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """TOML tables -> settings by full name, and contexts by name with theirs. Raises Usage."""
    tops = {section.split(".")[0] for section in settings.SECTIONS} | {"context"}
    values: dict[str, Any] = {}
    contexts: dict[str, dict[str, Any]] = {}
    for top, table in content.items():
        if top not in tops:
            raise Usage(f"{where}: unknown section [{top}]{_nearest(top, tops)}")
        if not isinstance(table, dict):
            raise Usage(f"{where}: {top} is a section: write [{top}]")
        if top == "context":
            contexts = {name: _context(name, keys, where) for name, keys in table.items()}
        else:
            values |= _section(top, table, where)
    return values, contexts


def _section(section: str, table: dict[str, Any], where: str) -> dict[str, Any]:
    known = _fields(settings.SECTIONS[section]) if section in settings.SECTIONS else {}
    below = {
        other.removeprefix(section + ".") for other in settings.SECTIONS if other.startswith(section + ".")
    }
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key in below and isinstance(value, dict):
            found |= _section(f"{section}.{key}", value, where)
        elif key in known:
            found[f"{section}.{key}"] = value
        else:
            raise Usage(f"{where}: unknown key {key!r} in [{section}]{_nearest(key, {*known, *below})}")
    return found


def _context(name: str, keys: Any, where: str) -> dict[str, Any]:
    if not isinstance(keys, dict):
        raise Usage(f"{where}: context.{name} is a section: write [context.{name}]")
    for key in keys:
        if key not in settings.CONTEXT_KEYS:
            near = _nearest(key, settings.CONTEXT_KEYS)
            raise Usage(f"{where}: unknown key {key!r} in [context.{name}]{near}")
    return {settings.CONTEXT_KEYS[key]: value for key, value in keys.items()}


def _from_environment(env: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(variable, setting, text). Tasks have `MR_JOB_ID` and the like: only doubled underscores are ours."""
    known = {f"{section}.{name}" for section, kind in settings.SECTIONS.items() for name in _fields(kind)}
    by_variable = {"MR_" + key.replace(".", "__").upper(): key for key in known}
    for variable in sorted(env):
        if variable in settings.ENVIRONMENT:
            yield variable, settings.ENVIRONMENT[variable], env[variable]
        elif variable.startswith("MR_") and "__" in variable:
            if variable not in by_variable:
                raise Usage(
                    f"unknown setting in the environment: {variable}{_nearest(variable, by_variable)}"
                )
            yield variable, by_variable[variable], env[variable]


def _fields(kind: type) -> dict[str, _Field]:
    hints = get_type_hints(kind, include_extras=True)
    return {f.metadata.get("name", f.name): _Field(f.name, hints[f.name]) for f in dataclasses.fields(kind)}


def _parse(hint: Any, raw: Any, folder: Path) -> Any:
    """`raw`, from TOML, the environment or a flag, as the type that the setting has."""
    how = getattr(hint, "__metadata__", ("",))[0]
    match how:
        case "size":
            return units.parse_bytes(raw)
        case "duration":
            return units.parse_seconds(raw)
        case "deadline":
            return 0.0 if raw == "adaptive" else units.parse_seconds(raw)
        case "names":
            items = raw.split(",") if isinstance(raw, str) else raw
            return tuple(str(item).strip() for item in items if str(item).strip())
        case "path":
            return folder / Path(str(raw)).expanduser() if str(raw) else None
    if get_origin(hint) is Literal:
        if raw not in get_args(hint):
            choices = ", ".join(map(str, get_args(hint)))
            raise Usage(f"{raw!r} is not one of: {choices}{_nearest(str(raw), get_args(hint))}")
        return raw
    return _plain(hint, raw)


def _plain(hint: Any, raw: Any) -> Any:
    if hint is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(raw).lower() not in words:
            raise Usage(f"{raw!r} is neither true nor false")
        return words[str(raw).lower()]
    if hint is int:
        try:
            return int(str(raw))
        except ValueError:
            raise Usage(f"{raw!r} is not a whole number") from None
    return str(raw)


def _spell(hint: Any, value: Any) -> str:
    """`value` as it would be written in TOML, without quotes."""
    how = getattr(hint, "__metadata__", ("",))[0]
    if how == "deadline" and not value:
        return "adaptive"
    if how in {"duration", "deadline"}:
        return units.spell_duration(value)
    if how == "size":
        return units.spell_size(value)
    if how == "names":
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
