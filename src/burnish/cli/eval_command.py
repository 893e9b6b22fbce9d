"""`burnish eval …`: arguments and help. The work is done in `cli/eval.py`."""

from __future__ import annotations

from typing import Annotated

import typer


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
