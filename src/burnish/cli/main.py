"""`burnish`: the commands, and what errors look like. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import typer

from burnish.cli.data_commands import data_app, templates_app
from burnish.cli.eval_command import evaluate
from burnish.cli.runs_commands import runs_app
from burnish.cli.settings_arguments import ChatCommand, EvalCommand, SettingsCommand
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


@app.command(cls=SettingsCommand)
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


@app.command(cls=ChatCommand)
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


@app.command(cls=SettingsCommand)
def predict(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A settings file, a run folder or checkpoint, a model, or the URL of a server.",
            metavar="RUN.yaml|RUN_DIR|URL",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="Ask this model instead, such as the base; or which of a server's models.")
    ] = None,
) -> None:
    """Answer a dataset with the template of the training, and compare with its answers.

    It answers eval_dataset, or the rows that val_size held out, and writes predictions.jsonl, predict.json (BLEU, chrF,
    ROUGE, exact match) and predictions.html into output_dir. Called again after it was killed, it goes on.

    A reward model (stage: rm) scores instead: both answers of each pair, or the last answer of each conversation.

    Examples:

      burnish predict run.yaml

      burnish predict runs/mine eval_dataset=test.jsonl do_sample=false max_new_tokens=200

      burnish predict run.yaml --model smollm2-135m-instruct output_dir=runs/base-answers

      burnish predict runs/rm eval_dataset=pairs.jsonl output_dir=runs/rm/on-pairs

      burnish predict http://127.0.0.1:8000/v1 --model mine eval_dataset=test.jsonl     (key: OPENAI_API_KEY or API_KEY)
    """
    from burnish.cli.predict import run_predict

    run_predict(source, model, context.args)


app.command(name="eval", cls=EvalCommand)(evaluate)


@app.command(cls=SettingsCommand)
def export(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="A run folder, a model, or a YAML file that names them.", metavar="MODEL|RUN_DIR|RUN.yaml"),
    ] = None,
    to: Annotated[str | None, typer.Option(help="The folder to write; export_dir in a file.")] = None,
    format: Annotated[str, typer.Option(help="hf (safetensors) or gguf (llama.cpp, Ollama).")] = "hf",
    quantize: Annotated[
        str | None, typer.Option(help="GGUF numbers: f32, bf16, f16, q8_0 (or as merged); q4_k_m … by llama-quantize.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Merged weights in auto (as the base), float32, bfloat16 or float16.")
    ] = None,
    export_size: Annotated[str | None, typer.Option(help="Most of one file of weights, in GB.")] = None,
    adapter_only: Annotated[bool, typer.Option(help="The adapter alone, for PEFT: nothing is merged.")] = False,
    base_name: Annotated[
        str | None, typer.Option(help="With --adapter-only: the base as others know it, such as owner/name.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier export in that folder.")] = False,
    push_to_hub: Annotated[str | None, typer.Option(help="Also upload it, under this name: me/my-model.")] = None,
    public: Annotated[bool, typer.Option(help="With --push-to-hub: let everybody see it.")] = False,
) -> None:
    """Hand over what was trained: merged weights, a GGUF file or an adapter, read back and compared with the run.

    The folder also gets a Modelfile for Ollama and a model card. It appears only once all was checked; an export that
    differs from the run is an error and leaves nothing behind.

    Examples:

      burnish export runs/first --to exported/first

      burnish export runs/first --to exported/first-gguf --format gguf --quantize q8_0

      burnish export runs/first --to exported/adapter --adapter-only --base-name owner/name --dtype bfloat16

      burnish export merge.yaml              (a LLaMA-Factory export file: adapter_name_or_path, export_dir, …)

      burnish export train.yaml --to exported/it      (the run that this file has trained)

    How answers are drawn can be set for all who load it: temperature=0.2 top_p=0.9. Further settings: template,
    default_system, adapter_name_or_path=a,b (merged in this order), trust_remote_code.
    """
    from burnish.cli.export import Arguments, run_export

    arguments = Arguments(
        to, format, quantize, dtype, export_size, adapter_only, base_name, overwrite, push_to_hub, public
    )
    run_export(model, context.args, arguments)


@app.command(cls=SettingsCommand)
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model, a run folder or a .gguf file.", metavar="MODEL|RUN_DIR")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="A run on this base, under a name of its own. May be repeated.", metavar="NAME=RUN_DIR"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; others than this machine's need API_KEY.", envvar="API_HOST")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", envvar="API_PORT", min=0, max=65535)] = 8000,
    name: Annotated[str | None, typer.Option(help="What requests call the model.", envvar="API_MODEL_NAME")] = None,
    engine: Annotated[str, typer.Option(help="auto, burnish, llamacpp or vllm.")] = "auto",
    slots: Annotated[int, typer.Option(help="Answers that are made at a time.", min=1, max=1024)] = 8,
    queue: Annotated[int, typer.Option(help="Answers that may wait; more get status 429.", min=0)] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.", min=1)] = 600.0,
    max_request_mb: Annotated[float, typer.Option(help="The largest request, in MiB.", min=0.01, max=1024)] = 4.0,
    drain: Annotated[int, typer.Option(help="Seconds that running requests get when the server stops.", min=0)] = 30,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="A web page's origin that browsers let in; off by default. May be repeated."),
    ] = None,
) -> None:
    """Serve a model over HTTP, in OpenAI's protocol, with the template it was trained with.

    Examples:

      burnish serve runs/first

      burnish serve smollm2-135m-instruct --adapter first=runs/first --adapter second=runs/second

      API_KEY=secret burnish serve runs/first --host 0.0.0.0 --port 8080

      burnish serve model.gguf temperature=0 max_new_tokens=300

    Generation settings behind it hold where a request does not say otherwise. The environment variables API_HOST,
    API_PORT, API_KEY and API_MODEL_NAME work as in LLaMA-Factory; a key is only ever read from there.
    """
    from burnish.cli.serve import Place, run_serve

    run_serve(
        model,
        place=Place(host, port, tuple(cors_origin or ()), drain),
        name=name,
        adapters=adapter or (),
        engine=engine,
        slots=slots,
        queue=queue,
        timeout_s=timeout,
        request_mb=max_request_mb,
        overrides=context.args,
    )


@app.command()
def env() -> None:
    """What this machine has, in one block to paste into a report. Secrets and the name of the user are left out."""
    from burnish.cache import cache_folder
    from burnish.kernels.native import compiler_in_words
    from burnish.runs.environment import environment, render_environment, surroundings

    print(render_environment(environment() | surroundings(cache_folder(), compiler_in_words())))


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
