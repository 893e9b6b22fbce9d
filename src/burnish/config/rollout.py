"""Settings of learning from the model's own answers: the stages ppo, grpo and rloo."""

from __future__ import annotations

from burnish.config.fields import Number, Numbers, RewardList, RoomSettings, setting


class RolloutSettings(RoomSettings):
    """How answers are sampled, judged and learnt from."""

    reward_funcs: RewardList = setting(
        (), "What scores the answers: names, module:function, file.py:function, or mappings with name and parameters."
    )
    reward_weights: Numbers = setting(
        (), "Weight of each reward in the sum.", derived="the weight of each mapping, else 1"
    )
    reward_timeout: Number = setting(60.0, "Seconds that each reward function has for a batch of answers.", gt=0)
