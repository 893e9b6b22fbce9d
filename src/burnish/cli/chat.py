"""`burnish chat`: talk to a model in the terminal, or ask it one thing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import log
from burnish.cache import cache_folder
from burnish.cli.data_target import SETTINGS_ENDINGS
from burnish.config import Settings, load_settings
from burnish.data.records import Turn
from burnish.errors import EXIT_USER, BurnishError, ModelError

if TYPE_CHECKING:
    from burnish.generate.reply import Speaker

_BASE = ""
"""What `--compare` alone names: the model that a run was trained from."""


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    model: str
    settings: Settings
    compare: str | None = None
    served: str | None = None


def run_chat(
    model: str,
    *,
    prompt: str | None,
    system: str | None,
    template: str | None,
    served: str | None,
    overrides: Sequence[str],
) -> None:
    """Load the model, then answer once or in a loop."""
    model, compare, rest = split_compare([model, *overrides])
    if template:
        rest = [*rest, f"template={template}"]
    asked = understand(model, compare, served, rest)
    piped = prompt is not None or not sys.stdin.isatty()
    log.set_quiet(piped)  # stdout is to hold answers alone; what goes wrong stands on stderr
    speakers = load_speakers(asked)
    log.set_quiet(False)
    from burnish.cli.chat_loop import Chat

    chat = Chat(speakers, _steering(speakers, asked.settings), [Turn("system", system)] if system else [])
    if prompt is not None:
        _answer_once(chat, sys.stdin.read() if prompt == "-" else prompt)
        return
    from burnish.cli.chat_input import piped_lines, terminal_lines

    if piped:
        chat.converse(piped_lines(sys.stdin), terminal=False)
        if chat.failed:
            raise SystemExit(EXIT_USER)
        return
    for speaker in speakers:
        log.say(introduced(speaker))
    log.say("/help lists the commands, Ctrl-D leaves")
    chat.converse(terminal_lines(cache_folder() / "chat_history"), terminal=True)


def split_compare(words: Sequence[str]) -> tuple[str, str | None, list[str]]:
    """The model, what `--compare` names (None without it), and the rest of a command line.

    The name behind `--compare` may be left out; the word behind it is one if it is no setting and no flag, and a model
    was named before.
    """
    left, compare, found = list(words), None, [word for word in words if word.split("=")[0] == "--compare"]
    if len(found) > 1:
        raise BurnishError("--compare stands twice", at="command line", fix="name one model to compare with")
    if found:
        place = left.index(found[0])
        compare = left.pop(place).partition("=")[2]
        follows = left[place] if place < len(left) else ""
        if place and not compare and follows and "=" not in follows and not follows.startswith("-"):
            compare = left.pop(place)
    if not left or left[0].startswith("-"):
        raise BurnishError("no model is named", at="command line", fix="burnish chat MODEL, or a run folder")
    return left[0], compare, left[1:]


def understand(model: str, compare: str | None, served: str | None, overrides: Sequence[str]) -> Asked:
    """Read the settings: of a settings file that names a model, and of the command line.

    Raises:
        BurnishError: a setting has no effect in a chat.
    """
    from burnish.api import trained_model
    from burnish.generate.remote import is_url

    if Path(model).suffix.lower() in SETTINGS_ENDINGS:
        settings = load_settings(model, list(overrides))
        name = str(trained_model(settings))
    else:
        settings, name = load_settings({}, list(overrides)), model
    _refuse_others(settings, STEERS if is_url(name) else STEERS | LOADS)
    if served and not is_url(name):
        raise BurnishError("--model chooses a model of a server", at="--model", fix="leave it out, or give a URL")
    return Asked(name, settings, compare, served)


STEERS = {"do_sample", "temperature", "top_p", "top_k", "max_length", "max_new_tokens", "repetition_penalty", "seed"}
LOADS = {"template", "default_system", "adapter_name_or_path", "use_cpu", "trust_remote_code", "tool_format"}
LOADS |= {"enable_thinking", "preserve_thinking", "split_special_tokens", "skip_special_tokens", "infer_dtype"}
LOADS |= {"quantization_bit", "quantization_method", "quantization_type", "double_quantization", "infer_backend"}
LOADS |= {"model_revision", "cache_dir", "hf_hub_token"}


SERVERS_OWN = "the server's own"
"""What `/set` shows for a value that was not set in a chat with a server."""


def _refuse_others(settings: Settings, known: set[str]) -> None:
    """Settings of the command line that chat would have to ignore are errors; a file may hold those of training."""
    for key in sorted(settings.given - known):
        if settings.origins.get(key) == "command line" or settings.source_path is None:
            raise BurnishError(
                f"'{key}' has no effect in {'chat' if known > STEERS else 'a chat with a server'}",
                at=settings.origins.get(key, "command line"),
                fix="leave it out",
            )


def load_speakers(asked: Asked) -> list[Speaker]:
    """The model, and before it the one it is compared with."""
    main = load_speaker(asked.model, asked, asked.served)
    if asked.compare is None:
        return [main]
    if asked.compare != _BASE:
        return [load_speaker(asked.compare, asked, None), main]
    from burnish.api import load_base
    from burnish.generate.chat import ChatModel

    if not isinstance(main, ChatModel):
        raise BurnishError(
            "what a served model was tuned from is not known", at="--compare", fix="name the other one: --compare OTHER"
        )
    try:
        base = load_base(asked.settings, main)
    except ModelError as error:
        raise ModelError(error.what, at=error.at, fix="name what to compare with: --compare OTHER") from error
    if Path(base.name).is_dir():
        base.name = Path(base.name).name  # nobody has typed its folder, and it is long
    return [base, main]


def load_speaker(name: str, asked: Asked, served: str | None) -> Speaker:
    """A model that is here, or one behind a URL."""
    from burnish.generate.remote import is_url, load_remote_model

    if is_url(name):
        return load_remote_model(name, served, note=log.note)
    from burnish.api import loading_options
    from burnish.generate.chat import load_chat_model

    named = asked.model == name
    options = loading_options(asked.settings)
    if not named or (name != asked.settings.model.model_name_or_path and asked.settings.source_path):
        options["adapters"] = ()  # they belong to the base that the settings name
    return load_chat_model(name, say=log.say, **options)


def introduced(speaker: Speaker) -> str:
    """A model in one line."""
    from burnish.generate.chat import ChatModel

    if isinstance(speaker, ChatModel):
        return f"{speaker.name} · template {speaker.template.name}"
    return f"{getattr(speaker, 'model', '')} at {speaker.name} · values that are not set are the server's own"


def _steering(speakers: Sequence[Speaker], settings: Settings) -> Callable[[Sequence[str]], dict[str, Any]]:
    """What the loop calls with `key=value` strings to change how answers are drawn."""
    from burnish.api import sampling_of
    from burnish.generate.chat import ChatModel

    elsewhere = not any(isinstance(speaker, ChatModel) for speaker in speakers)
    held = {key: value for key, value in settings.flat().items() if key in STEERS and key in settings.given}

    def steer(changes: Sequence[str]) -> dict[str, Any]:
        now = load_settings(held, list(changes))
        sampling = sampling_of(now)
        for speaker in speakers:
            speaker.steer(sampling, now.given)
        values = now.generating.model_dump()
        shown = {key: values[key] for key in values if key in STEERS} | {"seed": sampling.seed}
        if elsewhere:  # nothing that was not set is sent
            shown |= {key: SERVERS_OWN for key in shown if key not in now.given and key != "seed"}
        return shown

    return steer


def _answer_once(chat: Any, text: str) -> None:
    """The answer alone on stdout; with two models each below its name."""
    if not text.strip():
        raise BurnishError("the prompt is empty", at="--prompt", fix="say something")
    if len(chat.speakers) > 1:
        chat.ask(text)
        return
    from burnish.cli.chat_show import EMPTY

    [speaker] = chat.speakers
    reply = speaker.begin([*speaker.turns, Turn("user", text)])
    try:
        for piece in reply:
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:
        reply.close()
    print()
    if not reply.text:
        print(EMPTY, file=sys.stderr)
