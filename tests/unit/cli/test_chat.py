"""The loop of `burnish chat`: commands, what is remembered, what errors do to it."""

from __future__ import annotations

import io
import json
import re

import pytest

from burnish.cli.chat import _steering, load_speakers, split_compare, understand
from burnish.cli.chat_input import Said, piped_lines, read_message
from burnish.cli.chat_loop import Chat
from burnish.cli.chat_show import harmless
from burnish.config import load_settings
from burnish.data.records import Turn
from burnish.errors import BurnishError
from burnish.generate.remote import RemoteModel
from burnish.generate.reply import Reply
from tests.exports import adapter_folder, base_folder


class Parrot:
    """Answers with what it was asked last; `fails` with an error, `cuts` the answer short."""

    def __init__(self, name="parrot"):
        self.name, self.turns, self.seeds, self.asked = name, [], [], []
        self.fails, self.ending = None, "stop"

    def steer(self, sampling, given):
        self.given = given

    def begin(self, turns, *, seed=None):
        self.seeds.append(seed)
        self.asked.append(list(turns))

        def write(put):
            if self.fails:
                raise self.fails
            put(f"you said {turns[-1].content}", 3)
            return self.ending

        return Reply(write)


def steer(changes):
    settings = load_settings({}, list(changes))
    values = settings.generating.model_dump()
    return {key: values[key] for key in ("do_sample", "temperature", "top_p")} | {
        "seed": settings.training.seed if "seed" in settings.given else None
    }


@pytest.fixture
def chat():
    return Chat([Parrot()], steer)


def say(chat, *lines):
    for line in lines:
        chat.take(Said(line))


def contents(chat, which=0):
    return [turn.content for turn in chat.speakers[which].turns]


def test_a_conversation_is_remembered(chat, capsys):
    say(chat, "one", "two")
    assert contents(chat) == ["one", "you said one", "two", "you said two"]
    out, err = capsys.readouterr()
    assert out == "you said one\nyou said two\n", "a pipe gets answers alone"
    assert err.count("3 tokens · ") == 2


def test_system_clear_undo_and_retry(chat):
    say(chat, "/system Be brief.", "one", "two", "/undo")
    assert contents(chat) == ["Be brief.", "one", "you said one"]
    say(chat, "/retry")
    assert contents(chat) == ["Be brief.", "one", "you said one"]
    assert [turn.content for turn in chat.speakers[0].asked[-1]] == ["Be brief.", "one"]
    say(chat, "/undo", "/undo", "/retry")
    assert contents(chat) == ["Be brief."]
    say(chat, "one", "/clear")
    assert contents(chat) == ["Be brief."]
    say(chat, "/system")
    assert contents(chat) == []


def test_a_value_that_steers_nothing_is_told(chat, capsys):
    say(chat, "/set do_sample false", "/set temperature 0.2", "/set temperature default", "/set temperature 0")
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "(do_sample is false)",
        "(temperature is 0.2; no effect while do_sample is false)",
        "(temperature is 0.95)",
        "(temperature is 0.0)",
    ]


def test_values_are_set_shown_and_refused(chat, capsys):
    say(chat, "/set temperature 0.2", "/set seed=7", "/set top_p")
    assert (chat.values["temperature"], chat.values["seed"]) == (0.2, 7)
    assert "top_p is 0.7. Draw from" in capsys.readouterr().out
    say(chat, "/set temperature default")
    assert (chat.values["temperature"], chat.values["seed"]) == (0.95, 7)
    say(chat, "/set temprature 1", "/set temperature hot", "/set top_p 3")
    err = capsys.readouterr().err
    assert "did you mean 'temperature'?" in err
    assert "'temperature' must be a number, not 'hot'" in err
    assert (chat.values["temperature"], chat.values["top_p"]) == (0.95, 0.7)
    say(chat, "/set")
    assert "seed         7" in capsys.readouterr().out


def test_errors_never_end_it_and_leave_the_conversation_as_it_was(chat, capsys):
    say(chat, "one")
    for error in (BurnishError("too long", fix="/clear"), RuntimeError("broken"), MemoryError()):
        chat.speakers[0].fails = error
        assert chat.take(Said("two")) is True
    assert contents(chat) == ["one", "you said one"]
    err = capsys.readouterr().err
    assert "too long\n  fix: /clear" in err
    assert "RuntimeError: broken" in err
    assert chat.failed


def test_commands_are_told_from_messages(chat, capsys):
    assert chat.take(Said("/exit")) is False
    say(chat, "/etc/hosts is what?", "//undo is a command", "/undp")
    assert contents(chat)[::2] == ["/etc/hosts is what?", "/undo is a command"]
    assert "there is no command /undp\n  fix: did you mean '/undo'?" in capsys.readouterr().err
    chat.take(Said("/exit\nsecond line", verbatim=True))
    assert contents(chat)[-2] == "/exit\nsecond line"


def test_a_saved_conversation_can_be_trained_on_and_gone_on_with(chat, tmp_path, capsys):
    from burnish.data.load import load_samples

    path = tmp_path / "new folder" / "mine.jsonl"
    say(chat, f"/save {path}")
    assert "no whole answer" in capsys.readouterr().err
    say(chat, "/system Be brief.", "one", f"/save '{path}'", "/clear", "two")
    chat.speakers[0].ending = "length"
    say(chat, "three", f"/save {path}")
    assert "row 1 of" in capsys.readouterr().out
    first, second = load_samples([str(path)], tmp_path).samples
    assert [turn.content for turn in first.record.turns] == ["Be brief.", "one", "you said one"]
    assert [turn.weight for turn in second.record.turns if turn.role == "assistant"] == [1.0, 0.0]
    say(chat, f"/load {path} 0")
    assert contents(chat) == ["Be brief.", "one", "you said one"]
    say(chat, f"/load {path}")
    assert contents(chat) == ["Be brief.", "two", "you said two", "three", "you said three"]
    say(chat, f"/load {path} 9", "/load nowhere.jsonl", "/load", f"/save {tmp_path}/a.txt")
    err = capsys.readouterr().err
    for part in ("no conversation in row 9", "there is no such file", "no file is named", "name a file.jsonl"):
        assert part in err


def test_alpaca_rows_can_be_loaded_too(chat, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": "Add", "input": "1 1", "output": "2"}]))
    say(chat, f"/load {path}")
    assert contents(chat) == ["Add\n1 1", "2"]


def test_two_models_get_the_same_question_and_seed(capsys):
    chat = Chat([Parrot("base"), Parrot("tuned")], steer)
    say(chat, "one", "/set seed 5", "two")
    base, tuned = chat.speakers
    assert contents(chat) == contents(chat, 1) == ["one", "you said one", "two", "you said two"]
    assert base.seeds == tuned.seeds
    assert base.seeds[0] is not None
    assert base.seeds[1] == 5
    assert capsys.readouterr().out.startswith("── base\nyou said one\n── tuned\nyou said one\n")
    tuned.fails = BurnishError("no")
    say(chat, "three")
    assert len(base.turns) == len(tuned.turns) == 4, "the two conversations stay in step"


def test_blocks_and_pipes():
    line = piped_lines(io.StringIO('hi\r\n"""\na\n\nb\n"""\n"""\nopen'))
    assert read_message(line) == Said("hi")
    assert read_message(line) == Said("a\n\nb", verbatim=True)
    assert read_message(line) == Said("open", verbatim=True)
    with pytest.raises(EOFError):
        read_message(line)


def test_ctrl_c_at_the_prompt_leaves_the_second_time(chat, capsys):
    script = [KeyboardInterrupt, "one", KeyboardInterrupt, KeyboardInterrupt, "never"]

    def line(_):
        given = script.pop(0)
        if given is KeyboardInterrupt:
            raise KeyboardInterrupt
        return given

    chat.converse(line, terminal=True)
    assert script == ["never"]
    assert contents(chat) == ["one", "you said one"]
    assert capsys.readouterr().out.count("once more leaves") == 2


def test_a_model_cannot_steer_the_terminal():
    assert harmless("a\x1b[2Jb\r\nc\td\x9b") == "a\ufffd[2Jb\nc\td\ufffd"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["run"], ("run", None, [])),
        (["run", "--compare"], ("run", "", [])),
        (["--compare", "run"], ("run", "", [])),
        (["run", "--compare", "other", "seed=1"], ("run", "other", ["seed=1"])),
        (["run", "--compare", "seed=1"], ("run", "", ["seed=1"])),
        (["run", "seed=1", "--compare=other"], ("run", "other", ["seed=1"])),
    ],
)
def test_compare_may_name_a_model(words, found):
    assert split_compare(words) == found


def test_the_base_of_a_run_goes_by_the_name_of_its_folder(tmp_path):
    run = adapter_folder(base_folder(tmp_path / "models" / "base"), tmp_path / "run")
    base, tuned = load_speakers(understand(str(run), "", None, ["use_cpu=true"]))
    assert (base.name, tuned.name) == ("base", str(run))


def test_a_settings_file_names_what_it_trained(tmp_path):
    file = tmp_path / "run.yaml"
    lines = [f"model_name_or_path: base\ndataset: data.jsonl\noutput_dir: {tmp_path / 'out'}\nlearning_rate: 1e-4\n"]
    file.write_text("".join(lines))
    with pytest.raises(BurnishError, match="not there yet"):
        understand(str(file), None, None, [])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "adapter_config.json").write_text("{}")
    assert understand(str(file), None, None, []).model == str(tmp_path / "out")
    with pytest.raises(BurnishError, match="'learning_rate' has no effect in chat"):
        understand(str(file), None, None, ["learning_rate=1"])
    file.write_text("model_name_or_path: base\nadapter_name_or_path: lora\ntemplate: chatml\n")
    assert understand(str(file), None, None, []).model == "base"
    with pytest.raises(BurnishError, match="'template' has no effect in a chat with a server"):
        understand("http://127.0.0.1:1/v1", None, None, ["template=chatml"])
    with pytest.raises(BurnishError, match="chooses a model of a server"):
        understand("base", None, "tuned", [])


def test_the_default_system_message_is_saved(tmp_path):
    from burnish.cli.chat_files import save_conversation

    class Template:
        default_system = "You are terse."

    parrot = Parrot()
    parrot.template = Template()
    parrot.turns = [Turn("user", "a"), Turn("assistant", "b")]
    save_conversation(parrot, str(tmp_path / "a.jsonl"))
    [row] = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert row["messages"][0] == {"role": "system", "content": "You are terse."}


def test_in_a_pipe_ctrl_c_ends_it_all(chat, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Reply, "__next__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chat.converse(piped_lines(io.StringIO("one\ntwo\n")), terminal=False)
    assert len(chat.speakers[0].asked) == 1


def test_what_was_not_set_is_the_servers_own(capsys):
    remote = RemoteModel(None, "mine", "http://127.0.0.1:8000/v1")
    chat = Chat([remote], _steering([remote], load_settings({}, ["temperature=0.2"])))
    say(chat, "/set", "/set top_p 0.5", "/set top_p default")
    told = capsys.readouterr().out
    assert re.search(r"temperature +0.2\n", told)
    assert re.search(r"max_new_tokens +the server's own\n", told)
    assert told.endswith("(top_p is 0.5)\n(top_p is the server's own)\n")
    assert remote.arguments() == {"temperature": 0.2}
