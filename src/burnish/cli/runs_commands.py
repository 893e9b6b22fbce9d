"""`burnish runs …`: arguments and help. The work is done elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

runs_app = typer.Typer(help="Look at finished and running runs.", no_args_is_help=True, rich_markup_mode=None)


@runs_app.command(name="list")
def runs_list(
    root: Annotated[str, typer.Argument(help="Where to look.")] = "runs",
    sort: Annotated[str, typer.Option(help="newest, name, status, steps, loss, eval or time.")] = "newest",
    status: Annotated[
        str | None, typer.Option(help="Only these: running, completed, interrupted, failed, died, silent or broken.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """Runs below a folder, newest first.

    A run has died when it says that it is running but no process works in its folder. It is silent when it has
    written nothing for two minutes.

    Examples:

      burnish runs list

      burnish runs list experiments --sort eval --status completed
    """
    from burnish.cli.runs import run_list

    run_list(root, sort=sort, status=status, as_json=json)


@runs_app.command(name="show")
def runs_show(
    run_dir: Annotated[str, typer.Argument(help="A run folder.")],
    json: Annotated[bool, typer.Option("--json", help="Print all that is known as JSON.")] = False,
) -> None:
    """One run: model, data, figures, loss curve.

    Examples:

      burnish runs show runs/quickstart

      burnish runs show runs/quickstart --json | jq .train.eval_loss
    """
    from burnish.cli.runs import run_show

    run_show(run_dir, as_json=json)


@runs_app.command(name="compare")
def runs_compare(
    run_dirs: Annotated[list[str], typer.Argument(help="Run folders, or a folder with several runs in it.")],
    metric: Annotated[
        str, typer.Option(help="A column of metrics.jsonl to draw; eval_ before it is drawn too.")
    ] = "loss",
    by: Annotated[str, typer.Option(help="Draw over step, epoch, tokens or time.")] = "step",
    png: Annotated[str | None, typer.Option(help="Draw the curves into this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables to paste into a document.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print settings, figures and curves as JSON.")] = False,
) -> None:
    """Settings that differ, figures side by side, and the loss curves over one another.

    Examples:

      burnish runs compare runs/first runs/second

      burnish runs compare runs/sweep --png curves.png --by tokens

      burnish runs compare runs/lora runs/full --markdown --png loss.png >> notes.md

      burnish runs compare runs/a runs/b --metric grad_norm
    """
    from burnish.cli.runs import run_compare

    run_compare(run_dirs, metric=metric, by=by, png=png, as_markdown=markdown, as_json=json)


@runs_app.command(name="doctor")
def runs_doctor(
    run_dir: Annotated[str, typer.Argument(help="A run folder, finished or running.")],
    probe: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Ask the model N training prompts and N held-out ones: did it learn?"),
    ] = 0,
    worst: Annotated[
        int, typer.Option(min=0, metavar="K", help="List the K training rows whose loss stands out most.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """What went wrong in a run, with the evidence and what to try. A healthy run has no findings.

    It reads run.json, metrics.jsonl and the saved adapter: rates too high or too low, spikes (and the rows in them),
    gradients that are always clipped, overfitting (and which checkpoint to use), odd first losses, rows lost, dead
    adapters, datasets that lag.

    --probe loads the model, and the one before training: are its answers to training prompts right, and to others; does
    it end them; do the answers of the data belong to their prompts at all?

    --worst loads the model and measures the loss of each training row: those far above rows of their dataset and length
    are often mislabelled.

    Examples:

      burnish runs doctor runs/quickstart

      burnish runs doctor runs/quickstart --probe 20 --worst 20

      burnish runs doctor runs/quickstart --json | jq '.findings[].name'
    """
    from burnish.cli.doctor import run_doctor

    run_doctor(run_dir, probe=probe, worst=worst, as_json=json)
