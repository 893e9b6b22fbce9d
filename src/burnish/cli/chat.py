"""`burnish chat`: talk to a model in the terminal, or ask it one thing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from burnish import log
from burnish.config import Settings, load_settings
from burnish.data.records import Turn
from burnish.errors import BurnishError

_HELP = """/clear      forget the conversation
/system TEXT  set the system message (and forget the conversation)
/undo       take the last question and answer back
/help       this list
/exit       leave (also Ctrl-D)"""


def run_chat(
    model: str,
    *,
    prompt: str | None,
    system: str | None,
    template: str | None,
    overrides: Sequence[str],
) -> None:
    """Load the model, then answer once or in a loop."""
    all_settings = load_settings({}, list(overrides))
    _refuse_others(all_settings)
    settings, given = all_settings.generating, all_settings.given
    from burnish.generate.chat import load_chat_model
    from burnish.generate.request import Sampling

    chat = load_chat_model(
        model,
        template=template or all_settings.data.template,
        default_system=all_settings.data.default_system,
        adapters=all_settings.model.adapter_name_or_path,
        use_cpu=all_settings.training.use_cpu,
        trust_remote_code=all_settings.model.trust_remote_code,
        enable_thinking=all_settings.data.enable_thinking,
        preserve_thinking=all_settings.data.preserve_thinking,
        split_special_tokens=all_settings.data.split_special_tokens,
        quantization_bit=all_settings.model.quantization_bit,
        quantization_type=all_settings.model.quantization_type,
        double_quantization=all_settings.model.double_quantization,
        say=(lambda _: None) if prompt is not None else log.say,
        sampling=Sampling(
            max_new_tokens=settings.max_new_tokens,
            max_length=settings.max_length,
            do_sample=settings.do_sample,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            repetition_penalty=settings.repetition_penalty,
            seed=all_settings.training.seed if "seed" in given else None,
        ),
    )
    first = [Turn("system", system)] if system else []
    chat.turns = list(first)
    if prompt is not None:
        answer = chat.chat(prompt, _write)
        print()
        if not answer:
            print("(the model ended its answer at once)", file=sys.stderr)
        return
    log.say(f"{chat.name} · template {chat.template.name} · /help lists the commands, Ctrl-D leaves")
    _converse(chat, first)


# Besides those that steer generation, which all work here but one.
_ALSO = {"template", "default_system", "adapter_name_or_path", "use_cpu", "trust_remote_code", "seed"}
_ALSO |= {"enable_thinking", "preserve_thinking", "split_special_tokens"}
_ALSO |= {"quantization_bit", "quantization_method", "quantization_type", "double_quantization"}


def _refuse_others(settings: Settings) -> None:
    """Settings that chat would have to ignore are errors."""
    generating = set(type(settings.generating).model_fields) - {"skip_special_tokens"}
    for key in sorted(settings.given - generating - _ALSO):
        raise BurnishError(
            f"'{key}' has no effect in chat", at=settings.origins.get(key, "command line"), fix="leave it out"
        )


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _converse(chat: object, first: list[Turn]) -> None:
    from burnish.generate.chat import ChatModel

    assert isinstance(chat, ChatModel)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - line editing and history in input()
    while True:
        try:
            text = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not text:
            continue
        if text.startswith("/"):
            verb, _, rest = text.partition(" ")
            if verb in ("/exit", "/quit"):
                return
            if verb == "/clear":
                chat.turns = list(first)
            elif verb == "/system":
                first = [Turn("system", rest)] if rest else []
                chat.turns = list(first)
            elif verb == "/undo":
                chat.turns = chat.turns[:-2] if len(chat.turns) >= len(first) + 2 else list(first)
            else:
                print(_HELP)
            continue
        try:
            if not chat.chat(text, _write):
                print("(the model ended its answer at once)", end="")
            print(f"\n[{chat.tokens_per_second:.0f} tokens/s]")
        except KeyboardInterrupt:
            print("\n[stopped]")
        except BurnishError as error:  # too long, or a turn that the template does not know: the chat goes on
            print(error, file=sys.stderr)
