"""Inputs and destinations by URL behave like files."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from other_processes import run

import encamp
from conftest import need
from encamp.errors import (
    BadDestination,
    BadJob,
    InputError,
    NoMatch,
    OutputConflict,
    OutputExists,
    SourceChanged,
    UnusableInput,
)
from encamp.storage import urls
from encamp.storage.inputs.mirror import Mirror, Mode, plan
from encamp.storage.local_storage import local_storage
from encamp.storage.outputs.patterns import Existing, Output
from encamp.storage.outputs.publish import publish
from encamp.storage.outputs.stage import stage
from encamp.storage.outputs.still_intact import intact
from encamp.storage.sandbox_folder import Sandbox
from encamp.storage.urls import find_remote

try:
    import fsspec
except ImportError:
    need("fsspec", False)


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system behind ``memory://``, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


@pytest.fixture
def bucket(memory: Any) -> Any:
    for name, text in {"a.txt": "a", "b.txt": "bb", "deep/c.txt": "ccc", "deep/d.bak": "d"}.items():
        memory.pipe(f"/bucket/{name}", text.encode())
    return memory


def seen(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.mark.parametrize(
    ("mirror", "wanted"),
    [
        ("memory://bucket/a.txt", {"a.txt": "a"}),
        ("memory://bucket/*.txt", {"a.txt": "a", "b.txt": "bb"}),
        (Mirror("memory://bucket/a.txt", "in", rename="{stem}-1{suffix}"), {"in/a-1.txt": "a"}),
        (Mirror("memory://bucket/[b-z].txt"), {"b.txt": "bb"}),
        (
            Mirror("memory://bucket", exclude=("*.bak",)),
            {"bucket/a.txt": "a", "bucket/b.txt": "bb", "bucket/deep/c.txt": "ccc"},
        ),
        ("memory://bucket/deep", {"deep/c.txt": "ccc", "deep/d.bak": "d"}),
        (Mirror("memory://bucket/none*", required=False), {}),
        (Mirror("memory://none/a.txt", required=False), {}),
    ],
)
def test_urls_are_inputs_like_paths(
    mirror: str | Mirror, wanted: dict[str, str], bucket: Any
) -> None:
    with encamp.sandbox(mirror) as folder:
        assert seen(folder) == wanted


@pytest.mark.parametrize("mode", ["auto", "link", "copy"])
def test_every_file_is_downloaded_once_a_host(
    mode: Mode, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded: list[str] = []
    real = urls.download

    def counted(url: str, *args: Any, **options: Any) -> None:
        downloaded.append(url)
        real(url, *args, **options)

    monkeypatch.setattr("encamp.storage.cache.cache.download", counted)
    mirrors = [Mirror("memory://bucket/*.txt", mode=mode), Mirror("memory://bucket/a.txt", "too")]
    for _ in range(3):
        with encamp.sandbox(mirrors) as folder:
            assert seen(folder) == {"a.txt": "a", "b.txt": "bb", "too/a.txt": "a"}
    assert sorted(url.rpartition("/")[2] for url in downloaded) == ["a.txt", "b.txt"]


def test_changed_url_is_downloaded_again(bucket: Any) -> None:
    for text in ("a", "b", "longer"):
        bucket.pipe("/bucket/a.txt", text.encode())
        with encamp.sandbox("memory://bucket/a.txt") as folder:
            assert (folder / "a.txt").read_text() == text


def test_a_file_that_changes_between_plan_and_download_is_named(bucket: Any) -> None:
    items = plan([Mirror("memory://bucket/a.txt")], Path())
    bucket.pipe("/bucket/a.txt", b"longer than it was")
    sandbox = Sandbox("test")
    try:
        with pytest.raises(SourceChanged, match=r"bucket/a\.txt"):
            sandbox.place(items)
    finally:
        sandbox.remove()
    assert not list((local_storage() / "cache/partial").iterdir())


def test_a_url_that_matches_nothing_is_named(bucket: Any) -> None:
    for pattern in ("memory://bucket/none.txt", "memory://bucket/*.none"):
        with pytest.raises(NoMatch) as caught, encamp.sandbox(pattern):
            pytest.fail("there is no such input")
        assert pattern in str(caught.value)


def test_a_file_url_is_an_input_also_of_jobs(here: Path) -> None:
    """A job's slots are other processes; the name has whatever characters."""
    (here / "two words%20.txt").write_text("content")
    job = encamp.Job("job", to="out")
    for name in ("one", "two"):
        step = encamp.command(f"cat *.txt > {name}.out", shell=True)
        mirror = Mirror(f"file://{here}/two words%20.txt")
        job.add(name, step, mirror=mirror, outputs=f"{name}.out")
    report = job.run(slots=2)
    assert (here / "out/one.out").read_text() == (here / "out/two.out").read_text() == "content"
    assert report.ok
    assert [task.state for task in job.run(slots=2).tasks] == ["up to date"] * 2
    (here / "two words%20.txt").write_text("changed content")
    why = [task.why for task in job.run(slots=2).tasks]
    assert why == ["an input changed: two words%20.txt"] * 2
    assert (here / "out/one.out").read_text() == "changed content"


# HTTP


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and notes what was asked for."""

    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.asked.append(("GET", self.path))
        if self.path == "/secret":
            self.send_error(403)
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"of unknown length")
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        self.asked.append(("HEAD", self.path))
        if self.path in ("/secret", "/endless"):
            self.send_response(403 if self.path == "/secret" else 200)
            self.end_headers()
        else:
            super().do_HEAD()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(here: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The URL of a server of the current folder's ``web``, and what it was asked for."""
    pytest.importorskip("aiohttp", reason="fsspec needs it for HTTP")
    (here / "web/deep").mkdir(parents=True)
    (here / "web/a.dat").write_bytes(os.urandom(100_000))
    (here / "web/b.dat").write_text("b")
    (here / "web/page.html").write_text('<a href="a.dat">a</a> <a href="b.dat">b</a>')
    Handler.asked = []
    handler = partial(Handler, directory=str(here / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}", Handler.asked
        finally:
            http.shutdown()
            thread.join()


def test_file_is_downloaded_by_http(server: tuple[str, Any], here: Path) -> None:
    url, _ = server
    with encamp.sandbox({f"{url}/a.dat": "in"}) as folder:
        assert (folder / "in/a.dat").read_bytes() == (here / "web/a.dat").read_bytes()


def test_a_page_with_links_is_a_file_too(server: tuple[str, Any], here: Path) -> None:
    url, _ = server
    with encamp.sandbox(f"{url}/page.html") as folder:
        assert seen(folder) == {"page.html": (here / "web/page.html").read_text()}


def test_a_glob_finds_what_a_listing_links_to(server: tuple[str, Any], here: Path) -> None:
    url, _ = server
    with encamp.sandbox(f"{url}/*.dat") as folder:
        assert sorted(os.listdir(folder)) == ["a.dat", "b.dat"]
        assert (folder / "a.dat").read_bytes() == (here / "web/a.dat").read_bytes()


def test_file_is_downloaded_once_per_host(server: tuple[str, Any], here: Path) -> None:
    """Several tasks of a job, then another process; the server counts."""
    url, asked = server
    job = encamp.Job("job", to="out", mirror=f"{url}/a.dat")
    for number in range(4):
        job.add(f"t{number}", "test -s a.dat")
    job.run(slots=2)
    code = f"import encamp\nwith encamp.sandbox('{url}/a.dat') as f: assert (f / 'a.dat').exists()"
    run(code)
    bodies = [path for kind, path in asked if kind == "GET"]
    assert bodies == ["/a.dat"]


def test_file_changed_on_server_is_downloaded_again(server: tuple[str, Any], here: Path) -> None:
    """Also one of the same size, which only its date shows."""
    url, _ = server
    for number, text in enumerate(("x", "y", "longer")):
        (here / "web/b.dat").write_text(text)
        os.utime(here / "web/b.dat", (0, 1_600_000_000 + number))
        with encamp.sandbox(f"{url}/b.dat") as folder:
            assert (folder / "b.dat").read_text() == text


def test_a_missing_page_is_no_match(server: tuple[str, Any]) -> None:
    with pytest.raises(NoMatch, match="none"), encamp.sandbox(f"{server[0]}/none"):
        pytest.fail("there is no such input")
    with encamp.sandbox(Mirror(f"{server[0]}/none", required=False)) as folder:
        assert seen(folder) == {}


@pytest.mark.parametrize(
    ("path", "why"), [("/secret", "403"), ("/endless", "does not report its size")]
)
def test_missing_url_is_named(path: str, why: str, server: tuple[str, Any]) -> None:
    with pytest.raises(UnusableInput, match=why) as caught, encamp.sandbox(server[0] + path):
        pytest.fail("it cannot be had")
    assert caught.value.path == server[0] + path


@pytest.mark.parametrize("pattern", ["/a.dat", "/*.dat"])
@pytest.mark.parametrize("required", [True, False])
def test_unreachable_server_is_error_not_missing_file(
    pattern: str, required: bool, server: tuple[str, Any]
) -> None:
    """Otherwise an input that is not required would be left out when the network is down."""
    unused = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{unused.server_port}{pattern}"
    unused.server_close()
    with (
        pytest.raises(UnusableInput, match=r"127\.0\.0\.1") as caught,
        encamp.sandbox(Mirror(url, required=required)),
    ):
        pytest.fail("nobody is there")
    assert caught.value.path == url
    assert "\n" not in str(caught.value)


def test_http_is_no_destination(server: tuple[str, Any]) -> None:
    def block() -> None:
        with encamp.sandbox((), {"a": f"{server[0]}/to"}) as folder:
            (folder / "a").write_text("a")

    with pytest.raises(BadDestination, match=server[0]):
        block()


# Without fsspec


@pytest.mark.parametrize("where", ["input", "output"])
def test_without_fsspec_one_sentence_says_what_to_install(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    url = "memory://bucket/a.txt"
    mirror, outputs = (url, ()) if where == "input" else ((), {"a": url})
    with pytest.raises(InputError) as caught, encamp.sandbox(mirror, outputs):
        pytest.fail("there is no way to reach it")
    assert isinstance(caught.value, UnusableInput if where == "input" else BadDestination)
    assert "extra 'remote' (in a clone: pip install '.[remote]')" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_library_of_a_protocol_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UnusableInput, match="s3fs"), encamp.sandbox("s3://bucket/a.txt"):
        pytest.fail("there is no way to reach it")


def test_unknown_protocol_is_named() -> None:
    with pytest.raises(UnusableInput, match="carrier-pigeon"):
        find_remote("carrier-pigeon://loft/a.txt")
    with (
        pytest.raises(BadDestination, match="carrier-pigeon"),
        encamp.sandbox((), {"a": "carrier-pigeon://loft"}),
    ):
        pytest.fail("there is no way to reach it")


def test_paths_need_no_fsspec(here: Path) -> None:
    (here / "a").write_text("a")
    run(
        """
        import sys
        sys.modules["fsspec"] = None
        import encamp
        with encamp.sandbox("a", {"a": "to"}):
            pass
        """
    )


# Destinations


def bring(
    to: str, existing: Existing = "replace", text: str = "new", pattern: str = "a.txt"
) -> None:
    with encamp.sandbox((), Output(pattern, to, existing=existing)) as folder:
        (folder / "deep").mkdir()
        for name in ("a.txt", "deep/b.txt"):
            (folder / name).write_text(text)


def stored(system: Any) -> dict[str, str]:
    return {path: system.cat(path).decode() for path in system.find("/")}


def test_outputs_go_to_a_url(memory: Any) -> None:
    bring("memory://to/deep/")
    bring("memory://to", pattern="**/*.txt")
    assert stored(memory) == {
        "/to/a.txt": "new", "/to/deep/a.txt": "new", "/to/deep/b.txt": "new",
    }  # fmt: skip


@pytest.fixture
def destination(memory: Any) -> tuple[str, Callable[[], dict[str, str]]]:
    """A URL, and what is there, by its names."""
    url = "memory://to"
    system, top = fsspec.core.url_to_fs(url)

    def there() -> dict[str, str]:
        found = system.find(top) if system.exists(top) else []
        return {path.rpartition("/")[2]: system.cat(path).decode() for path in found}

    return url, there


@pytest.mark.parametrize("existing", ["replace", "keep", "error"])
def test_new_url_is_published_under_every_policy(existing: Existing, destination: Any) -> None:
    bring(destination[0], existing)
    assert destination[1]() == {"a.txt": "new"}


def test_existing_url_is_replaced(destination: Any) -> None:
    bring(destination[0], text="old")
    bring(destination[0])
    assert destination[1]() == {"a.txt": "new"}


def test_existing_url_is_kept_on_request(destination: Any) -> None:
    bring(destination[0], text="old")
    bring(destination[0], "keep")
    assert destination[1]() == {"a.txt": "old"}


def test_existing_url_is_an_error_on_request(
    destination: Any,
) -> None:
    bring(destination[0], text="old")

    def block() -> None:
        outputs = [
            Output("b.txt", destination[0]),
            Output("a.txt", destination[0], existing="error"),
        ]
        with encamp.sandbox((), outputs) as folder:
            (folder / "a.txt").write_text("new")
            (folder / "b.txt").write_text("new")

    with pytest.raises(OutputExists) as caught:
        block()
    assert caught.value.path == f"{destination[0]}/a.txt"
    assert destination[1]() == {"a.txt": "old"}


@pytest.mark.parametrize("existing", ["keep", "error"])
def test_a_file_that_is_not_published_beside_another_is_removed(
    existing: Existing, memory: Any, here: Path
) -> None:
    (here / "a.txt").write_text("new")
    to = "memory://bucket"
    outputs = [Output("a.txt", to, existing=existing)]
    staged = stage(here, outputs, here, token="token", task="task")
    memory.pipe("/bucket/a.txt", b"old")
    with nullcontext() if existing == "keep" else pytest.raises(OutputExists):
        publish(staged, ())
    assert memory.find("/bucket") == ["/bucket/a.txt"]
    assert memory.cat("/bucket/a.txt") == b"old"


@pytest.mark.parametrize("existing", ["keep", "error"])
def test_concurrently_created_url_is_not_replaced(
    existing: Existing, destination: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = urls.upload

    def upload(source: Path, url: str) -> tuple[int, str]:
        sent = real(source, url)
        system, path = fsspec.core.url_to_fs(f"{destination[0]}/a.txt")
        system.pipe(path, b"theirs")
        return sent

    monkeypatch.setattr(urls, "upload", upload)
    if existing == "keep":
        bring(destination[0], existing)
    else:
        with pytest.raises(OutputExists):
            bring(destination[0], existing)
    assert destination[1]() == {"a.txt": "theirs"}


def test_a_failed_block_leaves_nothing_at_a_url(destination: Any) -> None:
    def block() -> None:
        with encamp.sandbox((), {"a.txt": destination[0], "none": destination[0]}) as folder:
            (folder / "a.txt").write_text("new")

    with pytest.raises(encamp.EncampError):
        block()
    assert destination[1]() == {}


def test_failed_upload_is_named_and_keeps_old_object(
    destination: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(destination[0], text="old")
    system, _ = fsspec.core.url_to_fs(destination[0])

    def broken(*args: Any, **options: Any) -> None:
        raise ConnectionResetError("gone away")

    monkeypatch.setattr(type(system), "mv", broken)
    with pytest.raises(BadDestination, match="gone away"):
        bring(destination[0])
    assert destination[1]() == {"a.txt": "old"}


def test_failed_url_rename_restores_old_file(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/bucket/a.txt", b"old")
    memory.pipe("/bucket/part", b"new")
    real = type(memory).mv

    def mv(self: Any, old: str, new: str) -> None:
        if old.endswith("part") and new.endswith("a.txt"):
            raise OSError("not now")
        real(self, old, new)

    monkeypatch.setattr(type(memory), "mv", mv)
    with pytest.raises(BadDestination, match="not now"):
        urls.move("memory://bucket/part", "memory://bucket/a.txt")
    assert memory.cat("/bucket/a.txt") == b"old"
    assert memory.find("/bucket") == ["/bucket/a.txt", "/bucket/part"]


@pytest.mark.parametrize(("told", "good"), [(None, True), (5, True), (4, False), (0, False)])
def test_uploaded_size_is_checked_against_announced_size(
    told: int | None, good: bool, memory: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "a.txt").write_text("bytes")
    monkeypatch.setattr(type(memory), "size", lambda *_: told)
    with nullcontext() if good else pytest.raises(BadDestination, match="fewer bytes"):
        assert urls.upload(here / "a.txt", "memory://bucket/a.txt")[0] == 5


def test_two_outputs_for_one_url_are_refused_before_anything_runs(memory: Any) -> None:
    outputs = [Output("a", "memory://to"), Output("b", "memory://to/", rename="a")]
    with pytest.raises(OutputConflict, match=r"memory://to/a"), encamp.sandbox((), outputs):
        pytest.fail("one would replace the other")


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_a_url_of_this_hosts_disk_is_the_path_that_it_stands_for(here: Path, scheme: str) -> None:
    assert Output("a", f"{scheme}://{here}/to") == Output("a", f"{here}/to")
    assert Mirror(f"{scheme}:///{here}/*.txt") == Mirror(f"{here}/*.txt")
    assert encamp.Job("job", to=f"{scheme}://{here}/to").to == here / "to"
    Path("link").symlink_to("real")
    with encamp.sandbox((), {"a.txt": f"{scheme}://{here}/link"}, to=f"{scheme}://{here}/out") as f:
        (f / "a.txt").write_text("new")
    assert Path("real/a.txt").read_text() == "new"
    with pytest.raises(BadJob, match="has no absolute path"):
        Output("a", f"{scheme}://to")


def test_only_outputs_go_to_other_urls(here: Path) -> None:
    for refused in (
        lambda: encamp.Job("job", to="memory://to"),
        lambda: encamp.sandbox((), "a", to="memory://to").__enter__(),
    ):
        with pytest.raises(BadDestination, match="only the 'to' of a single output"):
            refused()


def test_a_job_publishes_to_a_url_and_knows_when_it_is_up_to_date(here: Path) -> None:
    def job() -> encamp.Job:
        job = encamp.Job("job", to="out")
        step = encamp.command("echo made > a.txt", shell=True)
        output = Output("a.txt", f"file://{here}/there", existing="error")
        job.add("task", step, outputs=output)
        return job

    report = job().run(slots=1)
    assert (here / "there/a.txt").read_text() == "made\n"
    (published,) = report["task"].outputs
    assert published.path == f"{here}/there/a.txt"
    assert (published.size, intact(published)) == (5, True)
    assert job().run(slots=1)["task"].state == "up to date"
    assert job().run(slots=1, force=True)["task"].state == "done"
    (here / "there/a.txt").unlink()
    again = job().run(slots=1)["task"]
    assert (again.state, "was removed" in again.why) == ("done", True)
    assert [path.name for path in (here / "there").iterdir()] == ["a.txt"]


def test_a_file_has_the_date_that_its_server_tells(server: tuple[str, Any], here: Path) -> None:
    url, _ = server
    os.utime(here / "web/b.dat", (0, 1_600_000_000))
    for mirror in (Mirror(f"{url}/b.dat"), Mirror(f"{url}/b.dat", readonly=True)):
        with encamp.sandbox(mirror) as folder:
            assert (folder / "b.dat").stat().st_mtime == 1_600_000_000


@pytest.mark.parametrize(
    ("info", "seconds"),
    [
        ({"mtime": 1_600_000_000.25}, 1_600_000_000.25),
        ({"LastModified": datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC)}, 1_600_000_000),
        ({"LastModified": datetime(2020, 9, 13, 12, 26, 40)}, 1_600_000_000),
        ({"Last-Modified": "Sun, 13 Sep 2020 12:26:40 GMT"}, 1_600_000_000),
        ({"updated": "2020-09-13T12:26:40.5Z"}, 1_600_000_000.5),
        ({"updated": "some day"}, 0),
        ({}, 0),
    ],
)
def test_all_forms_of_a_date_are_understood(info: dict[str, Any], seconds: float) -> None:
    assert urls._mtime_ns(info) == round(seconds * 1e6) * 1000


@pytest.mark.parametrize("options", [{}, {"readonly": True}, {"mode": "copy"}])
def test_a_file_from_a_url_may_be_made_executable(
    options: dict[str, Any], memory: Any, here: Path
) -> None:
    memory.pipe("/bucket/tool", b"#!/bin/sh\necho it runs\n")
    url = "memory://bucket/tool"
    for executable in (False, True, False):
        with encamp.sandbox(Mirror(url, executable=executable, **options)) as folder:
            assert os.access(folder / "tool", os.X_OK) == executable
            if executable:
                done = subprocess.run([folder / "tool"], text=True, capture_output=True, check=True)
                assert done.stdout == "it runs\n"


@pytest.mark.parametrize("cached", [False, True])
def test_file_from_disk_without_permissions_is_executable(cached: bool, here: Path) -> None:
    (here / "tool").write_text("#!/bin/sh\n")
    (here / "tool").chmod(0o640)
    for executable in (True, False):
        items = plan([Mirror("tool", executable=executable)], here)
        sandbox = Sandbox("test")
        try:
            sandbox.place(replace(item, cached=cached) for item in items)
            mode = (sandbox.folder / "tool").stat().st_mode & 0o777
        finally:
            sandbox.remove()
        assert mode == (0o750 if executable else 0o640)
