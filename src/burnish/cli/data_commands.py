"""`burnish data …` and `burnish templates …`: their arguments and help. The work is done elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from burnish.cli.settings_arguments import SettingsCommand

data_app = typer.Typer(help="Look at data before it is trained on.", no_args_is_help=True, rich_markup_mode=None)
templates_app = typer.Typer(help="The chat templates that come with Burnish.", rich_markup_mode=None)


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


@data_app.command(name="inspect", cls=SettingsCommand)
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


@data_app.command(name="stats", cls=SettingsCommand)
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


@data_app.command(name="lint", cls=SettingsCommand)
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


@data_app.command(name="loss", cls=SettingsCommand)
def data_loss(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A settings file, data, or datasets.", metavar="RUN.yaml|PATH|NAME")],
    model: Annotated[str | None, typer.Option(help="The model or run folder that reads the data.")] = None,
    worst: Annotated[int, typer.Option(help="Rows to show, those with the highest loss first.", min=0)] = 20,
    to: Annotated[str | None, typer.Option(help="The file to write; else losses.jsonl in the run folder.")] = None,
) -> None:
    """The loss and perplexity of every row under a model, to find rows that are hard, odd or wrong.

    Rows are labelled as in training: with the template, the lengths and the masks of the settings, or of the run. The
    mean over all tokens is what training reports as eval_loss.

    Examples:

      burnish data loss run.yaml

      burnish data loss chats.jsonl --model smollm2-135m-instruct --to losses.jsonl

      burnish data loss test.jsonl --model runs/mine --worst 50
    """
    from burnish.cli.data_loss import run_loss

    run_loss(source, model, context.args, worst=worst, to=to)


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


@data_app.command(name="rewards", cls=SettingsCommand)
def data_rewards(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The settings file of a run.", metavar="RUN.yaml")],
    column: Annotated[str, typer.Option(help="The column that holds the answers to score.")] = "answer",
    limit: Annotated[int, typer.Option(help="Score the first N rows of each dataset.", min=1)] = 100,
    json: Annotated[bool, typer.Option("--json", help="Print one line a row instead.")] = False,
) -> None:
    """Try the rewards of a run on answers that the data holds, without any training.

    The reference answers should score well: where they do not, the reward is wrong, or the data. `answer` is the
    answer of a row, whatever its column is called; every other column goes by its own name.

    Examples:

      burnish data rewards grpo.yaml

      burnish data rewards grpo.yaml --column bad_answer --limit 20

      burnish data rewards grpo.yaml reward_funcs='[math_equal, {name: length, max: 300, unit: words}]'
    """
    from burnish.cli.data_rewards import run_rewards

    run_rewards(run, context.args, column=column, limit=limit, as_json=json)
