"""`burnish eval …`: arguments and help. The work is done in `cli/eval.py`."""

from __future__ import annotations

from typing import Annotated

import typer

from burnish.cli import judge_options as of_judge

_JUDGE = of_judge.JudgeOptions("")  # what holds where nothing is said


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
    compare_served: Annotated[
        str | None, typer.Option("--compare-model", help="Of --compare URL: which of the server's models.")
    ] = None,
    confirm_run_unsafe_code: Annotated[
        bool, typer.Option("--confirm-run-unsafe-code", help="Let tasks run code that the model writes.")
    ] = False,
    list_them: Annotated[bool, typer.Option("--list", help="List tasks; behind it a part of a name.")] = False,
    judge: of_judge.Judge = None,
    judge_model: of_judge.JudgeModel = None,
    rubric: of_judge.RubricNames = None,
    rubric_file: of_judge.RubricFiles = None,
    judge_by: of_judge.JudgeBy = None,
    judge_language: of_judge.Language = _JUDGE.judge_language,
    judge_repeats: of_judge.Repeats = _JUDGE.judge_repeats,
    judge_labels: of_judge.Labels = None,
    judge_reference: of_judge.Referenced = _JUDGE.judge_reference,
    judge_reasons: of_judge.Reasons = _JUDGE.judge_reasons,
    judge_temperature: of_judge.Temperature = _JUDGE.judge_temperature,
    judge_max_tokens: of_judge.MaxTokens = _JUDGE.judge_max_tokens,
    judge_format: of_judge.Form = _JUDGE.judge_format,
    judge_rpm: of_judge.Rpm = None,
    judge_concurrency: of_judge.Concurrency = _JUDGE.judge_concurrency,
    judge_timeout: of_judge.Timeout = _JUDGE.judge_timeout,
    judge_retries: of_judge.Retries = _JUDGE.judge_retries,
    judge_fresh: of_judge.Fresh = _JUDGE.judge_fresh,
    price_in: of_judge.PriceIn = None,
    price_out: of_judge.PriceOut = None,
    max_cost: of_judge.MaxCost = None,
    dry_run: of_judge.DryRun = _JUDGE.dry_run,
) -> None:
    """Benchmarks by lm-eval (pip install 'burnish[eval]'), with the template the model was trained with; or a judge.

    Writes eval.json into the run folder. With a comparison both models get the same questions: difference, interval,
    test, and a page eval.html with the answers side by side.

    Examples:

      burnish eval runs/mine --tasks gsm8k_local --data data/gsm8k --limit 200

      burnish eval runs/mine --tasks gsm8k_local --data data/gsm8k --compare-base --regression arc_easy

      burnish eval runs/mine --tasks gsm8k --data gsm8k=data/gsm8k --compare-base --fail-if-worse 0.02

      burnish eval http://127.0.0.1:8000/v1 --tasks my_task --include-path tasks

      burnish eval --list gsm8k

    With --judge URL a language model grades the answers from 1 to 10, or with --compare says which of two is better,
    asked in both orders. Its key is read from BURNISH_JUDGE_KEY, OPENAI_API_KEY or API_KEY. Replies are kept: the same
    command goes on after Ctrl-C, and nothing is paid twice. judge.html has the answers with their grades.

      burnish eval runs/mine --judge https://judge.example/v1 --judge-model big --dry-run --price-in 0.3 --price-out 1.2

      burnish eval runs/mine --judge http://127.0.0.1:8000/v1 --rubric helpfulness,honesty --limit 100

      burnish eval runs/mine --judge http://127.0.0.1:8000/v1 --rubric-file rubrics.yaml

      burnish eval runs/mine eval_dataset=test.jsonl do_sample=false --judge http://127.0.0.1:8000/v1 --compare-base

      burnish eval http://127.0.0.1:8000/v1 --model mine --compare http://127.0.0.1:8000/v1 --compare-model base
      --data test.jsonl --judge https://judge.example/v1

      burnish eval new/predictions.jsonl --compare old/predictions.jsonl --judge http://127.0.0.1:8000/v1 --max-cost 2 …
    """
    from burnish.cli import eval as work

    # By its name: typer has a click of its own since some version.
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    of_judge.refuse_others(given, judge is not None)
    if judge is not None:
        from burnish.cli.eval_judge import JudgeCall, run_judge

        options = {name: context.params[name] for name in of_judge.OWN}
        options |= {"rubric": work.split_names(rubric), "rubric_file": tuple(rubric_file or ())}
        run_judge(
            JudgeCall(
                model=work.named(model),
                overrides=tuple(context.args),
                compare=work.compared(compare_base, compare),
                data=tuple(data or ()),
                limit=limit,
                seed=seed if "seed" in given else None,
                served=served,
                compare_served=compare_served,
                output=output,
                fail_if_worse=fail_if_worse,
            ),
            of_judge.JudgeOptions(**options),
        )
        return

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
            compare_served=compare_served,
            unsafe_code=confirm_run_unsafe_code,
        )
    )
