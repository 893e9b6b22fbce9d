"""Settings of the data: which datasets, how they become tokens, what is held out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from burnish.config.fields import (
    CHOICE,
    FLAG,
    Flag,
    Names,
    Number,
    Numbers,
    PathText,
    RoomSettings,
    Text,
    Whole,
    as_flag,
    as_word,
    setting,
)

Overlong = Annotated[Literal["truncate", "drop", "error"], CHOICE, BeforeValidator(as_word)]
OnBadRow = Annotated[Literal["drop", "error"], CHOICE, BeforeValidator(as_word)]
MixStrategy = Annotated[
    Literal["concat", "interleave_under", "interleave_over", "interleave_once"], CHOICE, BeforeValidator(as_word)
]
OnlyTrue = Annotated[Literal[True], FLAG, BeforeValidator(as_flag)]


def _packing_default(above: dict[str, Any]) -> bool:
    return bool(above.get("neat_packing", False))


class DataSettings(RoomSettings):
    """Which datasets, and the way from their rows to tokens and labels."""

    template: Text | None = setting(
        None,
        "Name of the chat template; without it, the tokenizer's own template is used.",
        derived="the tokenizer's own",
    )
    dataset: Names = setting((), "Datasets to train on: names from dataset_info.json, or paths of data files.")
    eval_dataset: Names = setting((), "Datasets to evaluate on, named as in `dataset`.")
    dataset_dir: PathText = setting("data", "Folder that holds dataset_info.json and the files it names.")
    cutoff_len: Whole = setting(2048, "Longest example in tokens; see `overlong` for longer ones.", ge=1)
    max_source_length: Whole | None = setting(
        None, "Most tokens of each prompt, as older files give it; longer ones are shortened.", ge=1
    )
    max_target_length: Whole | None = setting(
        None, "Most tokens of each answer, as older files give it; longer ones are shortened.", ge=1
    )
    overlong: Overlong = setting(
        "truncate", "What happens to an example longer than `cutoff_len`: shorten it, leave it out, or stop."
    )
    on_bad_row: OnBadRow = setting(
        "drop", "What happens to a row that cannot be read as a record: leave it out and count it, or stop."
    )
    train_on_prompt: Flag = setting(False, "Train on the tokens of the prompt too, not only on the answers.")
    mask_history: Flag = setting(False, "Train on the last answer of a conversation only, not on the earlier ones.")
    split_turns: Flag | None = setting(
        None,
        "Make a sample of its own for each answer of a conversation; false refuses where one sample cannot show all.",
        derived="only where the template rewrites earlier turns",
    )
    enable_thinking: Flag | None = setting(
        None,
        "Thinking models: true trains an empty thought where an answer has none, false leaves all thoughts out.",
        derived="the template's own, mostly true",
    )
    preserve_thinking: Flag = setting(
        False, "Keep the thoughts of earlier answers, which thinking templates leave out of the history."
    )
    tool_format: Text | None = setting(
        None,
        "Write tools and tool calls in the way of another template, such as default, glm4, llama3, mistral or qwen.",
        derived="the template's own",
    )
    split_special_tokens: Flag = setting(
        True, "Read control tokens that a text spells out, such as the end of a turn, as ordinary characters."
    )
    max_samples: Whole | None = setting(None, "Most rows taken from each dataset; without it, all.", ge=1)
    val_size: Number = setting(
        0.0,
        "Part of the training data held out for evaluation: a share below 1, or a number of samples above 1.",
        ge=0,
    )
    streaming: Flag = setting(
        False, "Read the data while training, for corpora larger than disk or memory allow; needs `max_steps`."
    )
    buffer_size: Whole = setting(16384, "Samples that streamed data is shuffled over, a block at a time.", ge=1)
    stream_lanes: Whole | None = setting(
        None,
        "Fixed shares of the files of streamed data that are read in turn; each process reads only its own.",
        ge=1,
        derived="one for each process, or 1 where files do not suit",
    )
    eval_on_each_dataset: Flag = setting(
        False, "Measure the evaluation loss on each dataset of `eval_dataset` by itself."
    )
    mix_strategy: MixStrategy = setting(
        "concat",
        "How datasets are mixed: one after another, or in turns until the first ends (interleave_under), the last "
        "ends (interleave_over) or all are used once.",
    )
    interleave_probs: Numbers | None = setting(
        None, "How often each dataset gets its turn; without it, they alternate.", derived="in turn"
    )
    max_files: Whole | None = setting(None, "Most files read of a folder or pattern; without it, all.", ge=1)
    preprocessing_num_workers: Whole | None = setting(
        None,
        "Processes that prepare the data; the result never depends on it.",
        ge=1,
        derived="one for each core, up to 8",
    )
    overwrite_cache: Flag = setting(False, "Prepare the data anew, even if the cache holds it.")
    tokenized_path: PathText | None = setting(
        None,
        "A prepared set: used if it is there, else written there; for preparing on one machine, training on another.",
    )
    neat_packing: Flag = setting(False, "The same as `packing` here: packed samples never see each other in Burnish.")
    packing: Flag = setting(
        False,
        "Fill each row of a batch with several samples up to `cutoff_len` tokens; they never see each other.",
        derived="the value of neat_packing",
        factory=_packing_default,
    )
    default_system: Text | None = setting(
        None,
        "System message for samples without one; without it, the template's own.",
        derived="the template's own",
    )
    ignore_pad_token_for_loss: OnlyTrue = setting(True, "Padding never counts in the loss.")
