"""`burnish`: the commands, and what errors look like. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import typer

from burnish.errors import EXIT_DEFECT, EXIT_INTERRUPTED, EXIT_USER, BurnishError, Interrupted, OtherRankFailed
from burnish.log import log_files

app = typer.Typer(
    name="burnish",
    help="Fine-tune language models: data to labels you can see, an exact loop, a plain account of every run.",
    epilog="Start with `burnish quickstart`, or `burnish train RUN.yaml`. Settings: `burnish settings`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at data before it is trained on.", no_args_is_help=True, rich_markup_mode=None)
runs_app = typer.Typer(help="Look at finished and running runs.", no_args_is_help=True, rich_markup_mode=None)
templates_app = typer.Typer(help="The chat templates that come with Burnish.", rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(templates_app, name="templates")
app.add_typer(runs_app, name="runs")

_GRACE_S = 3.0  # a launcher ends all processes when one has ended; the one that speaks may not be through yet

# `train` and `data inspect` take settings as key=value and as --key value; both are left to the settings reader.
_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command()
def quickstart(
    dry_run: Annotated[bool, typer.Option(help="Show the plan and stop.")] = False,
    again: Annotated[bool, typer.Option(help="Throw an earlier quickstart away and start anew.")] = False,
    output_dir: Annotated[str, typer.Option(help="Where the run goes.")] = "runs/quickstart",
    seed: Annotated[int, typer.Option(help="Seed of the data and of the training.")] = 42,
) -> None:
    """Teach a small model a skill, in about six minutes on two cores, and see the difference."""
    from burnish.cli.quickstart import run_quickstart

    run_quickstart(output_dir=output_dir, seed=seed, dry_run=dry_run, again=again)


@app.command(context_settings=_SETTINGS)
def train(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(help="A YAML or JSON file of settings.", metavar="RUN.yaml")] = None,
) -> None:
    """Train: any stage, from a settings file, `key=value` pairs or `--key value` flags.

    Examples:

      burnish train examples/quickstart.yaml

      burnish train run.yaml learning_rate=1e-4 output_dir=runs/second

      burnish train run.yaml resume_from_checkpoint=true
    """
    from burnish.cli.train import run_train

    run_train(run, context.args)


@app.command(context_settings=_SETTINGS)
def chat(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model, a run folder or a .gguf file.", metavar="MODEL|RUN_DIR")],
    prompt: Annotated[str | None, typer.Option(help="Answer this once and stop.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    template: Annotated[str | None, typer.Option(help="A chat template other than the model's own.")] = None,
) -> None:
    """Talk to a model or to what a run has trained, with the template it was trained with.

    Generation settings go behind it: temperature=0.2 top_p=0.9 max_new_tokens=200 do_sample=false.
    """
    from burnish.cli.chat import run_chat

    run_chat(model, prompt=prompt, system=system, template=template, overrides=context.args)


@app.command()
def env() -> None:
    """What this machine has, in one block to paste into a report. Secrets and the name of the user are left out."""
    from burnish.cache import cache_folder
    from burnish.runs.environment import environment, render_environment, surroundings

    print(render_environment(environment() | surroundings(cache_folder())))


@app.command()
def settings(
    name: Annotated[str | None, typer.Argument(help="One setting to explain.")] = None,
    json_schema: Annotated[bool, typer.Option(help="A JSON schema for editors.")] = False,
) -> None:
    """All settings, or one of them, with defaults and meaning."""
    from burnish.cli.reference import run_settings

    run_settings(name, json_schema)


@templates_app.callback(invoke_without_command=True)
def templates(context: typer.Context) -> None:
    """The chat templates that come with Burnish, and what each can do."""
    if context.invoked_subcommand is None:
        from burnish.cli.templates import run_list

        run_list()


@templates_app.command(name="show")
def templates_show(
    name: Annotated[str, typer.Argument(help="A template, a .jinja file, or `tokenizer` for the model's own.")],
    model: Annotated[str | None, typer.Option(help="Render with the tokenizer of this model or run.")] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Compare with the template of --model.")] = False,
    source: Annotated[bool, typer.Option("--source", help="Print the Jinja text instead.")] = False,
    thinking: Annotated[bool | None, typer.Option(help="enable_thinking; left out: the template's own way.")] = None,
    tool_format: Annotated[str | None, typer.Option(help="Write tools in the way of another template.")] = None,
) -> None:
    """A sample conversation as this template renders it, with what is trained in colour."""
    from burnish.cli.templates import run_show

    run_show(name, model=model, diff=diff, source=source, thinking=thinking, tool_format=tool_format)


@data_app.command(name="list")
def data_list(
    dataset_dir: Annotated[str, typer.Option(help="The folder with dataset_info.json.")] = "data",
) -> None:
    """The datasets that a registry names: where they are, how large, in which format."""
    from burnish.cli.data import run_list

    run_list(dataset_dir)


@data_app.command(name="inspect", context_settings=_SETTINGS)
def data_inspect(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The settings file of a run.", metavar="RUN.yaml")],
    format: Annotated[str | None, typer.Option(help="jsonl: one line a sample, with ids and labels.")] = None,
    limit: Annotated[int | None, typer.Option(help="Samples to show: 3 on the terminal, all in jsonl.", min=1)] = None,
    html: Annotated[str | None, typer.Option(help="Write one self-contained page to this file.")] = None,
    row: Annotated[int | None, typer.Option(help="Show this row of each file only; rows count from 0.", min=0)] = None,
) -> None:
    """Show what is trained, token by token, and why the rest is not.

    The tokens in colour are the ones the model learns to say.
    """
    from burnish.cli.data import run_inspect

    run_inspect(run, context.args, format=format, limit=limit, html=html, row=row)


@data_app.command(name="cache")
def data_cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all prepared sets.")] = False,
) -> None:
    """Prepared data that is kept between runs: where it is, how large, from what. It is made anew when needed."""
    from burnish.cli.data import run_cache

    run_cache(clear)


@data_app.command(name="stats", context_settings=_SETTINGS)
def data_stats(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A settings file, data, or datasets.", metavar="RUN.yaml|PATH|NAME")],
    dataset_dir: Annotated[str | None, typer.Option(help="The folder with dataset_info.json.  [default: data]")] = None,
    max_samples: Annotated[int | None, typer.Option(help="Look at the first N rows of each dataset.", min=1)] = None,
    png: Annotated[str | None, typer.Option(help="Write the histograms to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """What the data is: rows, turns, lengths, languages, tasks, and how it fits cutoff_len.

    Without a model lengths are in characters and words. With one (in RUN.yaml, or as model_name_or_path=…) they are
    in tokens, as trained: then it also says what is truncated, and what packing saves.

    Examples:

      burnish data stats chats.jsonl

      burnish data stats alpaca_en_demo,identity --dataset-dir data --png lengths.png

      burnish data stats run.yaml cutoff_len=1024
    """
    from burnish.cli.data_reports import run_stats

    run_stats(source, context.args, dataset_dir=dataset_dir, max_samples=max_samples, png=png, as_json=json)


@data_app.command(name="lint", context_settings=_SETTINGS)
def data_lint(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A settings file, data, or datasets.", metavar="RUN.yaml|PATH|NAME")],
    dataset_dir: Annotated[str | None, typer.Option(help="The folder with dataset_info.json.  [default: data]")] = None,
    max_samples: Annotated[int | None, typer.Option(help="Look at the first N rows of each dataset.", min=1)] = None,
    max_findings: Annotated[int | None, typer.Option(help="Findings to show: 20, or all with --json.", min=0)] = None,
    fail_above: Annotated[float, typer.Option(help="Exit with 2 if a larger share of rows has an error.")] = 0.05,
    rules: Annotated[str | None, typer.Option(help="Only these rules, separated by commas.")] = None,
    skip: Annotated[str | None, typer.Option(help="All rules but these.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print each finding as a line of JSON.")] = False,
) -> None:
    """Find rows that harm a training: each with its file, row and reason.

    Errors: bad-row, empty-answer, wrong-role, control-token, mojibake, duplicate, contradiction, overlap (with the
    eval_dataset of RUN.yaml). Warnings: unfinished, other-turn, placeholder, same-opening, length, pair-length.
    Hints: same-prompt, refusal.

    Examples:

      burnish data lint chats.jsonl

      burnish data lint run.yaml --fail-above 0.01 --skip duplicate

      burnish data lint chats.jsonl --rules mojibake --json > findings.jsonl
    """
    from burnish.cli.data_reports import run_lint

    run_lint(
        source,
        context.args,
        dataset_dir=dataset_dir,
        max_samples=max_samples,
        max_findings=max_findings,
        fail_above=fail_above,
        rules=rules,
        skip=skip,
        as_json=json,
    )


@data_app.command(name="convert")
def data_convert(
    source: Annotated[str, typer.Argument(help="Data, or datasets of the registry.", metavar="PATH|NAME")],
    to: Annotated[str, typer.Option(help="The file to write: .jsonl, .json or .parquet.")],
    format: Annotated[str, typer.Option(help="openai (holds everything), alpaca or sharegpt.")] = "openai",
    dataset_dir: Annotated[str, typer.Option(help="The folder with dataset_info.json.")] = "data",
    stage: Annotated[str | None, typer.Option(help="What for, such as sft or dpo; else what the data holds.")] = None,
    max_samples: Annotated[int | None, typer.Option(help="Take the first N rows of each dataset.", min=1)] = None,
    skip_unfit: Annotated[bool, typer.Option("--skip-unfit", help="Leave out rows that do not fit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Write data of any format as one file of openai messages, alpaca or sharegpt rows.

    It prints the entry of dataset_info.json that reads the new file. A row that the format cannot hold, such as a
    tool call in alpaca, is an error that names it.

    Examples:

      burnish data convert old.csv --to chats.jsonl

      burnish data convert glaive_toolcall_en_demo --to tools.parquet
    """
    from burnish.cli.data_reports import run_convert

    run_convert(
        source,
        to=to,
        format=format,
        dataset_dir=dataset_dir,
        stage=stage,
        max_samples=max_samples,
        skip_unfit=skip_unfit,
        overwrite=overwrite,
    )


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


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from burnish import __version__

        print(f"burnish {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line. Exit status: 0 done, 2 the user can mend it, 1 a defect, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):  # a redirected Windows console would fail on → and 中
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    # The deepspeed launcher puts this before the command; the environment says the same.
    sys.argv[1:] = [word for word in sys.argv[1:] if not word.startswith("--local_rank=")]
    try:
        app()
    except BurnishError as error:
        if _speaks(error):
            print(_marked(str(error)), *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        else:
            time.sleep(_GRACE_S)
        sys.exit(error.exit_code)
    except OtherRankFailed as other:
        sys.exit(other.exit_code)
    except (Interrupted, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    except MemoryError:
        print(_marked("there is not enough memory"), file=sys.stderr)
        sys.exit(EXIT_USER)
    except BrokenPipeError:  # `burnish … | head` closed its end
        sys.stderr.close()
        sys.exit(EXIT_DEFECT)
    except Exception:  # noqa: BLE001 - the last resort: whatever it is, say that it is ours
        import traceback

        traceback.print_exc()
        print(
            "\nThis is a defect of Burnish. Please report it with the lines above and `burnish env`.",
            file=sys.stderr,
        )
        for path in log_files():
            print(f"The log of the run: {path}", file=sys.stderr)
        sys.exit(EXIT_DEFECT)


def _speaks(error: BurnishError) -> bool:
    """Whether this process tells the user. Mistakes in settings are found by all processes of a run alike: the first
    of each machine speaks. A process that failed alone has a note on its error that says which one it is.
    """
    return os.environ.get("LOCAL_RANK", "0") == "0" or hasattr(error, "__notes__")


def _marked(message: str) -> str:
    if not sys.stderr.isatty():
        return f"error: {message}"
    return f"\033[31;1merror:\033[0m {message}"
