"""The commands `hosts.NAME`: proofs on machines that are not ours, for developers. The harness is in tests/hosts."""

from __future__ import annotations

from repro.cli import options
from repro.cli.tasking import Commands, Here, show


def add_hosts(commands: Commands) -> None:
    """Add them all."""
    commands.command("hosts.list", options.NoOptions, default=True)(hosts_list)
    commands.command("hosts.run", options.HostsRun)(hosts_run)
    commands.command("hosts.page", options.NoOptions)(hosts_page)


def hosts_list(_: options.NoOptions, here: Here) -> None:
    """List the hosts that scenarios are run on.

    With what each adds, and what came of its scenarios.
    """
    from tests.hosts.run import list_hosts

    show(list_hosts(here.paths.root))


def hosts_run(asked: options.HostsRun, here: Here) -> None:
    """Run a user's scenarios on another machine.

    A virtual machine is made of the distribution's packages; its results are written into docs/verified. Exit code 3
    where a scenario fails.
    """
    from tests.hosts.run import run_host

    run_host(here.paths, asked.name, asked.only, here.console.say)


def hosts_page(_: options.NoOptions, here: Here) -> None:
    """Draw docs/verified.md's table from docs/verified.

    A cell without a result says "not run".
    """
    from tests.hosts.results import write_page

    show(here.paths.told(write_page(here.paths.root)))
