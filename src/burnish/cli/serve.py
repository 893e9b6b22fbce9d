"""`burnish serve`: an OpenAI-compatible server for a model, a run, or a base with several runs."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from burnish import log
from burnish.api import loading_options, sampling_of
from burnish.cli.chat import LOADS, STEERS
from burnish.config import Settings, load_settings
from burnish.errors import BurnishError

if TYPE_CHECKING:
    from burnish.serve.serving import Serving

_NAME = re.compile(r"[\w.@:+-]+(/[\w.@:+-]+)*")


@dataclass(frozen=True)
class Place:
    """Where the server listens and whom it answers."""

    host: str
    port: int
    cors: Sequence[str] = ()
    drain_s: int = 30


def run_serve(
    model: str,
    *,
    place: Place,
    name: str | None,
    adapters: Sequence[str],
    engine: str,
    slots: int,
    queue: int,
    timeout_s: float,
    request_mb: float,
    overrides: Sequence[str],
) -> None:
    """Check everything that can be checked, load the model, then serve until told to stop."""
    settings = load_settings({}, list(overrides))
    _refuse_others(settings)
    key = os.environ.get("API_KEY") or None
    _check_door(place, key)
    named = read_adapters(adapters)
    _check_name(name, "--name")
    from burnish.serve.load import ENGINES, Wanted, load_serving
    from burnish.serve.server import open_socket
    from burnish.serve.serving import Limits

    if engine not in ENGINES:
        raise BurnishError(f"unknown engine '{engine}'", at="--engine", fix=f"one of {', '.join(ENGINES)}")
    limits = Limits(queue=queue, time_s=timeout_s, body_bytes=int(request_mb * 2**20))
    listening = open_socket(place.host, place.port)  # before the model is loaded: a taken port is known at once
    try:
        loading = loading_options(settings)
        del loading["skip_special_tokens"]
        given = frozenset(settings.given)
        wanted = Wanted(model, name, named, engine, slots, sampling_of(settings), limits, loading, given)
        serving = load_serving(wanted, log.say)
        _serve(serving, place, listening, key)
    finally:
        listening.close()


def _serve(serving: Serving, place: Place, listening: Any, key: str | None) -> None:
    from burnish.serve.app import build_app
    from burnish.serve.guard import LOOPBACK, Door
    from burnish.serve.server import run_server

    local = is_loopback(place.host)
    door = Door(
        key=key,
        hosts=(*LOOPBACK, place.host.lower()) if local else (),
        open_paths=("/health", "/docs", "/openapi.json") if local else ("/health",),
        largest=serving.limits.body_bytes,
    )
    on_terminal = logging.StreamHandler(sys.stderr)  # what clients are told nothing about
    on_terminal.setLevel(logging.ERROR)
    on_terminal.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.logger.addHandler(on_terminal)
    app = build_app(serving, door, cors_origins=place.cors, docs=local)
    host = f"[{place.host}]" if ":" in place.host else place.host
    address = f"http://{host}:{listening.getsockname()[1]}"

    def stop() -> None:
        log.say(f"stopping: what is under way has {place.drain_s} s to end; a second signal stops at once")
        serving.wind_down(place.drain_s)

    run_server(
        app,
        listening,
        drain_s=place.drain_s,
        on_ready=lambda: _introduce(serving, address, key is not None, local),
        on_stop=stop,
    )
    log.say("stopped")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. Any name but localhost counts as open: it may mean anything."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_adapters(written: Sequence[str]) -> dict[str, str]:
    """`name=RUN_DIR` as a table.

    Raises:
        BurnishError: one is not written so, or a name comes twice.
    """
    table: dict[str, str] = {}
    for one in written:
        name, found, folder = one.partition("=")
        if not found or not name or not folder:
            raise BurnishError(f"'{one}' is no adapter", at="--adapter", fix="write --adapter NAME=RUN_DIR")
        _check_name(name, "--adapter")
        if name in table:
            raise BurnishError(f"two adapters are called '{name}'", at="--adapter", fix="give one another name")
        table[name] = folder
    return table


def _check_name(name: str | None, at: str) -> None:
    if name is not None and not _NAME.fullmatch(name):
        raise BurnishError(
            f"'{name}' cannot be the name of a model", at=at, fix="use letters, digits and . - _ : / only"
        )


def _check_door(place: Place, key: str | None) -> None:
    """An open door needs a key."""
    if not is_loopback(place.host) and key is None:
        raise BurnishError(
            f"'{place.host}' can be reached from other machines, and no key is set",
            at="--host",
            fix="set API_KEY in the environment (clients send it as their api_key), or leave --host out",
        )
    if key is not None and not (key.isascii() and key.isprintable() and key == key.strip()):
        raise BurnishError("a key has to be of plain characters, without spaces around it", at="API_KEY")


def _refuse_others(settings: Settings) -> None:
    """Settings that a server would have to ignore are errors."""
    for key in sorted(settings.given - (STEERS | LOADS - {"skip_special_tokens"})):
        raise BurnishError(
            f"'{key}' has no effect in serve", at=settings.origins.get(key, "command line"), fix="leave it out"
        )


def _answers(count: int) -> str:
    return f"{count} answer{'s' if count != 1 else ''}"


def _introduce(serving: Serving, address: str, keyed: bool, local: bool) -> None:
    """What was started, and a first request to copy."""
    names = [one.name for one in serving.models.all]
    shown = address.replace("0.0.0.0", "127.0.0.1").replace("[::]", "127.0.0.1")
    engine = (
        f"engine {serving.backend.name}, {_answers(serving.backend.slots)} at a time" if serving.backend else "scores"
    )
    log.say(f"serving {', '.join(names)} at {address}/v1 · {engine} · Ctrl-C stops")
    key = ' -H "Authorization: Bearer $API_KEY"' if keyed else ""
    path, extra = (
        ("score", ', {"role": "assistant", "content": "Hello!"}') if serving.scorer else ("chat/completions", "")
    )
    log.say(f"""
  curl {shown}/v1/{path}{key} -H 'Content-Type: application/json' \\
    -d '{{"model": "{names[0]}", "messages": [{{"role": "user", "content": "Hi"}}{extra}]}}'""")
    if not serving.scorer:
        api_key = 'os.environ["API_KEY"]' if keyed else '"none"'
        log.say(f"""
  from openai import OpenAI
  client = OpenAI(base_url="{shown}/v1", api_key={api_key})
  answer = client.chat.completions.create(model="{names[0]}", messages=[{{"role": "user", "content": "Hi"}}])
  print(answer.choices[0].message.content)
""")
    if local:
        log.say(f"  more: {shown}/docs · {shown}/health · {shown}/metrics")
