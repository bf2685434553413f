"""Commands that set things up: certificates, configuration, shell completion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mr import render
from mr.commands import flags
from mr.commands.flags import Session
from mr.render import Column

if TYPE_CHECKING:
    from collections.abc import Iterable


def _names(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """`--masters a,b` and `--masters a --masters b` alike."""
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


@click.group()
def tls() -> None:
    """Makes certificates for a cluster."""


@tls.command()
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="Where. Default: where all of mr looks."
)
@click.option(
    "--masters", "--master", multiple=True, callback=_names, metavar="ID,...", help="Masters. Default: a,b,c."
)
@click.option(
    "--workers", "--worker", multiple=True, callback=_names, metavar="ID,...", help="Default: one for all."
)
@click.option(
    "--clients",
    "--client",
    multiple=True,
    callback=_names,
    metavar="NAME,...",
    help="Users. Default: client.",
)
@click.option(
    "--hosts", "--host", multiple=True, callback=_names, metavar="NAME,...", help="How servers are reached."
)
@flags.formatted
@flags.apart
def init(
    session: Session,
    *,
    folder: Path | None,
    masters: tuple[str, ...],
    workers: tuple[str, ...],
    clients: tuple[str, ...],
    hosts: tuple[str, ...],
) -> int:
    """Makes a certificate authority and certificates for masters, workers and clients.

    What exists is kept, so that a later call adds to it. Copy ca.pem and the two files of a process to its host;
    ca.key stays here, offline if you can.
    """
    from mr import tls as certificates
    from mr.errors import Usage

    place = folder or certificates.default_dir()
    try:
        written = certificates.init(
            place,
            hosts,
            masters=masters or ("a", "b", "c"),
            workers=workers or ("worker",),
            clients=clients or ("client",),
        )
    except certificates.TlsError as error:
        raise Usage(str(error)) from None
    if session.machine:
        print(render.line({"dir": str(place), "written": [path.name for path in written]}))
    else:
        print(_written(place, written))
    return 0


def _written(place: Path, written: Iterable[Path]) -> str:
    names = sorted(path.name for path in written)
    if not names:
        return f"{place} has all of them already"
    return "\n".join([f"made in {place}:", *(f"  {name}" for name in names)])


@click.group()
def config() -> None:
    """Shows the settings and where each comes from."""


@config.command()
@click.option("--origin", is_flag=True, help="Who set each.")
@click.argument("section", required=False)
@flags.formatted
@flags.common
def show(session: Session, *, origin: bool, section: str | None) -> int:
    """Prints every setting, or those of one SECTION: built-in, files, environment, flags; the last one wins."""
    rows = [row for row in session.config.rows() if not section or row[0].startswith(f"{section}.")]
    columns = [Column("SETTING", lambda row: row[0]), Column("VALUE", lambda row: row[1])]
    if origin:
        columns.append(Column("ORIGIN", lambda row: row[2]))
    render.rows(
        rows, columns, lambda row: {"setting": row[0], "value": row[1], "origin": row[2]}, session.form
    )
    return 0


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Prints the completion script of SHELL: eval "$(mr completion bash)"."""
    from click.shell_completion import get_completion_class

    from mr.cli import mr

    kind = get_completion_class(shell)
    assert kind is not None  # the choice above names only shells that click knows
    print(kind(mr, {}, "mr", "_MR_COMPLETE").source())
    return 0
