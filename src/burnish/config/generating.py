"""Settings of the sampler: how answers are drawn and when they end."""

from __future__ import annotations

from burnish.config.fields import Flag, Number, RoomSettings, Whole, setting


class GeneratingSettings(RoomSettings):
    """How text is generated in chat, prediction and serving."""

    do_sample: Flag = setting(True, "Draw tokens at random; false always takes the likeliest.")
    temperature: Number = setting(
        0.95, "Spread of the draw: below 1 sharper, above 1 flatter; 0 means do_sample: false.", ge=0
    )
    top_p: Number = setting(
        0.7, "Draw from the fewest likeliest tokens whose probabilities reach this sum.", gt=0, le=1
    )
    top_k: Whole = setting(50, "Draw from this many likeliest tokens; 0 sets no limit.", ge=0)
    max_length: Whole | None = setting(
        None, "Most tokens of prompt and answer together; max_new_tokens wins where both are set.", ge=1
    )
    max_new_tokens: Whole = setting(1024, "Most tokens of an answer.", ge=1)
    repetition_penalty: Number = setting(
        1.0,
        "Divides the score of tokens that have occurred; 1 changes nothing, above 1 avoids repeats.",
        gt=0,
    )
    skip_special_tokens: Flag = setting(True, "Leave special tokens out of the shown answer.")
