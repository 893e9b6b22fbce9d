"""`burnish`: the commands, and what errors look like. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import typer

from burnish.cli.data_commands import data_app, templates_app
from burnish.cli.runs_commands import runs_app
from burnish.cli.settings_arguments import SETTINGS
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
app.add_typer(data_app, name="data")
app.add_typer(templates_app, name="templates")
app.add_typer(runs_app, name="runs")

_GRACE_S = 3.0  # a launcher ends all processes when one has ended; the one that speaks may not be through yet


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


@app.command(context_settings=SETTINGS)
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


@app.command(context_settings=SETTINGS)
def chat(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A model, a run folder or checkpoint, a .gguf file, a settings file, or the URL of a server.",
            metavar="MODEL|RUN_DIR|URL",
        ),
    ],
    prompt: Annotated[str | None, typer.Option(help="Answer this once and stop; - reads it from stdin.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    template: Annotated[str | None, typer.Option(help="A chat template other than the model's own.")] = None,
    served: Annotated[str | None, typer.Option("--model", help="Which model of the server, with a URL.")] = None,
) -> None:
    """Talk to a model or to what a run has trained, with the template it was trained with.

    In the chat /help lists the commands: /system, /undo, /retry, /set, /save and more. Ctrl-C stops an answer.
    Generation settings go behind it: temperature=0.2 top_p=0.9 max_new_tokens=200 do_sample=false.

    --compare [OTHER] answers everything twice: by the model that the run was trained from, or OTHER, and by this one,
    with the same sampling and seed.

    Examples:

      burnish chat runs/mine

      burnish chat runs/mine --compare

      burnish chat runs/mine --prompt "What is a run folder?" do_sample=false

      echo "Hello" | burnish chat smollm2-135m-instruct

      burnish chat http://127.0.0.1:8000/v1 --model mine     (key: OPENAI_API_KEY or API_KEY)
    """
    from burnish.cli.chat import run_chat

    run_chat(model, prompt=prompt, system=system, template=template, served=served, overrides=context.args)


@app.command(name="eval", context_settings=SETTINGS)
def evaluate(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="A model, a run folder, a .gguf file or a URL.", metavar="MODEL|RUN_DIR|URL")
    ] = None,
    tasks: Annotated[list[str] | None, typer.Option(help="Tasks of lm-eval; several with commas or twice.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="Local data: a file or folder, or TASK=PATH.")] = None,
    include_path: Annotated[list[str] | None, typer.Option(help="A folder with your own task files.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Examples before a question; else the task says.")] = None,
    limit: Annotated[float | None, typer.Option(help="Questions of each task; below 1 a share of them.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of examples.")] = 1234,
    batch_size: Annotated[str, typer.Option(help="Rows at a time, or auto: by their tokens.")] = "auto",
    chat_template: Annotated[
        bool | None,
        typer.Option("--chat-template/--no-chat-template", help="Render questions; by default if there is one."),
    ] = None,
    fewshot_as_multiturn: Annotated[bool, typer.Option(help="Examples as turns of a conversation.")] = True,
    compare_base: Annotated[bool, typer.Option("--compare-base", help="Ask what a run was trained from too.")] = False,
    compare: Annotated[str | None, typer.Option(help="Ask this model the same questions.", metavar="OTHER")] = None,
    regression: Annotated[
        list[str] | None, typer.Option(help="Tasks that hold what the model could do before.", metavar="TASK")
    ] = None,
    fail_if_worse: Annotated[
        float | None, typer.Option(help="Exit with 2 where a figure is worse by more than this.", metavar="SHARE")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Folder of the results; a run folder by default.")] = None,
    served: Annotated[str | None, typer.Option("--model", help="Of a URL: which of the server's models.")] = None,
    confirm_run_unsafe_code: Annotated[
        bool, typer.Option("--confirm-run-unsafe-code", help="Let tasks run code that the model writes.")
    ] = False,
    list_them: Annotated[bool, typer.Option("--list", help="List tasks; behind it a part of a name.")] = False,
) -> None:
    """Benchmarks by lm-eval (pip install 'burnish[eval]'), with the template the model was trained with.

    Writes eval.json into the run folder. With a comparison both models get the same questions: difference, interval,
    test, and a page eval.html with the answers side by side.

    Examples:

      burnish eval runs/mine --tasks gsm8k_local --data data/gsm8k --limit 200

      burnish eval runs/mine --tasks gsm8k_local --data data/gsm8k --compare-base --regression arc_easy

      burnish eval runs/mine --tasks gsm8k --data gsm8k=data/gsm8k --compare-base --fail-if-worse 0.02

      burnish eval http://127.0.0.1:8000/v1 --tasks my_task --include-path tasks

      burnish eval --list gsm8k
    """
    from burnish.cli import eval as work

    if list_them:
        work.list_tasks(model, include_path or ())
        return
    work.run_eval(
        work.understand(
            context.args,
            model=work.named(model),
            tasks=work.split_names(tasks),
            regression=work.split_names(regression),
            include=tuple(include_path or ()),
            data=tuple(data or ()),
            num_fewshot=num_fewshot,
            limit=limit,
            seed=seed,
            rows_at_once=work.rows_of(batch_size),
            templated=chat_template,
            multiturn=fewshot_as_multiturn,
            compare=work.compared(compare_base, compare),
            fail_if_worse=fail_if_worse,
            output=output,
            served=served,
            unsafe_code=confirm_run_unsafe_code,
        )
    )


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
