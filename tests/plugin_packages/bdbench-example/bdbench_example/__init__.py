"""A third-party plugin of bdbench."""

from bdbench import Metric, hookimpl


@hookimpl
def bdbench_register_attacks():
    from bdbench_example.components import Invert

    return [Invert]


@hookimpl
def bdbench_register_defenses():
    from bdbench_example.components import Brightness

    return [Brightness]


@hookimpl
def bdbench_register_metrics():
    return [Metric("poisons_kept", lambda m: None if m.kept is None else float((m.roles[m.kept] == 1).sum()))]


@hookimpl
def bdbench_run_finished(record):  # takes only the argument it wants
    import os

    if "BDBENCH_EXAMPLE_LOG" in os.environ:
        with open(os.environ["BDBENCH_EXAMPLE_LOG"], "a") as file:
            file.write(record["id"] + "\n")


@hookimpl
def bdbench_add_commands(cli):
    @cli.command("hello")
    def hello():
        """Greet from a plugin."""
        print("hello from a plugin")
