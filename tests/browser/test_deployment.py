"""The app as the page on deployment sets it up: behind a real nginx with its configuration, and speaking TLS itself."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, Playwright, expect

from annotation.accounts import Accounts
from annotation.invites import Invites
from annotation.sessions import MAX_TRIES, Sessions
from annotation.store import Store
from benchmarks.annotation.chromium import ARGUMENTS, PATIENCE, program
from tests.browser.campaigns import numbered
from tests.browser.judge import READY, Judge
from tests.browser.model import Model
from tests.browser.server import Server

PAGE = (Path(__file__).parents[2] / "docs" / "annotation_deployment.md").read_text(encoding="utf-8")
HOST = "annotate.example.org"
PUBLIC = f"https://{HOST}"
PASSWORD = "seven brown lamps in rain"
SECRET = "0123456789abcdef0123456789abcdef"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    assert found is not None
    return found[1]


def flags_of_the_unit() -> list[str]:
    """What the unit's command says beside the store and the port."""
    (command,) = re.findall(r"^ExecStart=(.*?[^\\])$", block("ini"), flags=re.MULTILINE | re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))
    del words[: words.index("--port") + 2]
    return words


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", "-days", "2"]
    subprocess.run([*command, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(folder: Path, certificate: tuple[Path, Path], app_port: int) -> Iterator[tuple[int, int]]:
    """nginx with the page's configuration; its ports of TLS and of plain HTTP."""
    found = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if found is None:
        assert not os.environ.get("CI"), "nginx is missing; .ci/system-packages installs it"
        pytest.skip("nginx is not installed (apt-get install nginx)")
    tls, plain = free_ports(2)
    server = block("nginx")
    for old, new in (
        ("listen 443", f"listen 127.0.0.1:{tls}"),
        ("listen 80", f"listen 127.0.0.1:{plain}"),
        (f"/etc/letsencrypt/live/{HOST}/fullchain.pem", str(certificate[0])),
        (f"/etc/letsencrypt/live/{HOST}/privkey.pem", str(certificate[1])),
        ("127.0.0.1:7860", f"127.0.0.1:{app_port}"),
    ):
        assert server.count(old) == 1
        server = server.replace(old, new)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder / kind};\n" for kind in kinds)
    main = f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
    file = folder / "nginx.conf"
    file.write_text(f"{main}http {{\naccess_log off;\n{places}{server}}}\n", encoding="utf-8")
    process = subprocess.Popen([found, "-c", file, "-e", folder / "error.log"])
    try:
        deadline = time.monotonic() + 20
        while not is_open(tls):
            if process.poll() is not None or time.monotonic() > deadline:
                raise OSError(f"nginx does not start: {(folder / 'error.log').read_text()}")
            time.sleep(0.02)
        yield tls, plain
    finally:
        process.terminate()
        process.wait(timeout=20)


def fill(server: Server) -> str:
    """Items, a manager, and an annotator's invite, whose path is returned."""
    server.fill(numbered(8))
    server.ask_for(live=True)
    server.environment = os.environ | {"RLHF_ANNOTATION_SECRET": SECRET}
    store = Store.open(server.store_url)
    accounts = Accounts(store, passwords_required=True, secret=SECRET.encode())
    accounts.add("Mara", "manager", PASSWORD, by=None)
    path = f"/invite/{Invites(Sessions(accounts)).make('annotator', by=None)}"
    store.close()
    return path


@contextmanager
def visiting(playwright: Playwright, port: int) -> Iterator[Page]:
    """A browser for which the public address is a port of this machine, and no other one exists."""
    if program() is None:
        assert not os.environ.get("CI"), "Chromium is missing; .ci/system-packages installs it"
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    expect.set_options(timeout=PATIENCE)
    rules = f"--host-resolver-rules=MAP {HOST}:443 127.0.0.1:{port}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    browser = playwright.chromium.launch(executable_path=program(), args=[*ARGUMENTS, rules], timeout=PATIENCE)
    context = browser.new_context(viewport={"width": 1280, "height": 800}, ignore_https_errors=True)
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    browser.close()


def come_in(page: Page, server: Server, path: str) -> Judge:
    """Make an account by an invite's link and come to the first card."""
    page.goto(f"{PUBLIC}{path}")
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("A password").fill(PASSWORD)
    page.get_by_label("The password again").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector(READY)
    (cookie,) = page.context.cookies()
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
    return Judge(page, server.url)


def visitor(port: int, certificate: tuple[Path, Path], address: str = "127.0.0.1") -> httpx.Client:
    """Somebody at an address of their own, for whom the public address is a port of this machine."""
    context = ssl.create_default_context(cafile=certificate[0])
    transport = Named(verify=context, local_address=address)
    return httpx.Client(transport=transport, base_url=f"https://127.0.0.1:{port}", headers={"Host": HOST}, timeout=30)


class Named(httpx.HTTPTransport):
    """Asks for the certificate of the public name."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "sni_hostname": HOST}
        return super().handle_request(request)


def sign_in(client: httpx.Client, name: str = "Mara", **headers: str) -> int:
    return client.post("/login", data={"name": name, "password": PASSWORD}, headers=headers).status_code


def test_nginx_as_the_page_configures_it(
    server: Server, certificate: tuple[Path, Path], tmp_path: Path, playwright: Playwright
) -> None:
    path = fill(server)
    server.flags += flags_of_the_unit()
    with nginx(tmp_path, certificate, server.port) as (tls, plain):
        server.start()
        moved = httpx.get(f"http://127.0.0.1:{plain}/login?a=b", headers={"Host": HOST})
        assert (moved.status_code, moved.headers["location"]) == (301, f"{PUBLIC}/login?a=b")

        with visitor(tls, certificate) as mara, visitor(tls, certificate, "127.0.0.2") as stranger:
            for origin, status in ((PUBLIC, 303), ("https://example.org", 403), (f"{PUBLIC}:{tls}", 403)):
                assert sign_in(mara, Origin=origin) == status
            script = mara.get("/static/judge.js")
            assert (script.headers["content-encoding"], "strict-transport-security" in script.headers) == ("gzip", True)
            # wrong tries are counted by the address that nginx sees, whatever the request says of itself
            statuses = [
                sign_in(stranger, f"name {number}", **{"X-Forwarded-For": f"198.51.100.{number}"})
                for number in range(MAX_TRIES + 1)
            ]
            assert statuses == [401] * MAX_TRIES + [429]
            grow_a_live_answer(mara, server)

        with visiting(playwright, tls) as page:
            judge = come_in(page, server, path)
            judge.press("2")
            judge.saved(1)
            # nginx answers 502 until the app is there again
            server.kill()
            judge.press("9")
            expect(judge.unsent).to_have_text("1 unsent")
            expect(judge.page.locator(".connection")).to_contain_text("502")
            server.start()
            judge.saved(2)


def grow_a_live_answer(client: httpx.Client, server: Server) -> None:
    """Each part of an answer comes through before the next one is written."""
    request_id = str(uuid.uuid4())
    asked = {"client": "tab", "id": request_id, "campaign_id": 1, "messages": [{"role": "user", "content": "Why?"}]}
    assert client.post("/api/v1/live", json=asked).status_code == 201
    model = Model(server)
    with client.stream("GET", f"/api/v1/live/{request_id}/events") as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("data: "))
        assert '"waiting"' in next(lines)
        for said in ("Because", "Because it", "Because it is"):
            model.grow((said, "No."))
            while f'"{said}"' not in next(lines):
                pass


def test_tls_without_a_proxy(certificate: tuple[Path, Path], tmp_path: Path, playwright: Playwright) -> None:
    server = Server(tmp_path)
    server.url = f"https://127.0.0.1:{server.port}"
    path = fill(server)
    files = ("--tls_certificate", str(certificate[0]), "--tls_key", str(certificate[1]))
    server.flags += [*files, "--public_url", PUBLIC]
    server.start()
    try:
        with visiting(playwright, server.port) as page:
            judge = come_in(page, server, path)
            judge.press("2")
            judge.saved(1)
            page.get_by_role("link", name="Ask live").click()
            page.get_by_label("Your prompt").fill("Why is rain wet?")
            page.keyboard.press("Control+Enter")
            expect(page.locator(".live-state")).to_contain_text("place 1")
            Model(server).grow(("Because", "Rain"))
            expect(page.locator(".answers")).to_contain_text("Because")
    finally:
        server.kill()


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "rlhf-annotate.service"
    unit.write_text(block("ini").replace("/opt/rlhf/bin/rlhf", str(Path(sys.executable).with_name("rlhf"))))
    done = subprocess.run([found, "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
