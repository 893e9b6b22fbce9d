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
    overlong: Overlong = setting(
        "truncate", "What happens to an example longer than `cutoff_len`: shorten it, leave it out, or stop."
    )
    on_bad_row: OnBadRow = setting(
        "drop", "What happens to a row that cannot be read as a record: leave it out and count it, or stop."
    )
    train_on_prompt: Flag = setting(False, "Train on the tokens of the prompt too, not only on the answers.")
    mask_history: Flag = setting(False, "Train on the last answer of a conversation only, not on the earlier ones.")
    max_samples: Whole | None = setting(None, "Most rows taken from each dataset; without it, all.", ge=1)
    val_size: Number = setting(
        0.0,
        "Part of the training data held out for evaluation: a share below 1, or a number of samples above 1.",
        ge=0,
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
