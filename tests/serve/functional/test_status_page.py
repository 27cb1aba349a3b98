"""The status page in a real browser, before a real server."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from browser import Browser, find_browser
from serving import Load
from trainer import ROW

pytestmark = [
    pytest.mark.needs_torch,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium; install one, or name it as CHROMIUM"),
]
TOKEN = "a token of the tests"
TWO = """
[models.affine]
model = "affine:Affine"
checkpoints = "checkpoints"
[models.affine.canary]
checkpoints = "canary"
[models.other]
model = "affine:Affine"
checkpoints = "elsewhere"
"""
GENERATION = "document.querySelector('[data-generation]')?.textContent"


@pytest.fixture
def browser(tmp_path):
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


def test_it_shows_a_publish_without_a_reload_and_gives_orders(start_server, trainer, tmp_path, browser):
    (tmp_path / "token").write_text(TOKEN)
    first = trainer.publish(1, version="v1")
    server = start_server(admin_token_file=tmp_path / "token")
    server.wait_live(1)
    browser.open(f"http://127.0.0.1:{server.port}/")
    browser.wait_for(f"{GENERATION} === '1'")
    browser.evaluate("window.isTheSamePage = true")
    text = browser.evaluate("document.body.innerText")
    assert first.sha256[:12] in text
    assert "v1" in text
    assert "all on generation 1" in text
    with Load(server, ROW, threads=2):
        second = trainer.publish(2, version="v2")
        browser.wait_for(f"{GENERATION} === '2'")
        browser.wait_for("parseFloat(document.querySelector('[data-figure=rate]').textContent) > 0")
        browser.wait_for("document.querySelector('[data-figure=p99]').textContent.endsWith('s')")
    bad = trainer.directory / "bad.safetensors"
    bad.write_bytes(b"\x10\0\0\0\0\0\0\0{damaged header..")
    bad.with_name(bad.name + ".done").touch()
    late = trainer.directory / "late.safetensors"
    shutil.copy(first.checkpoint, late)
    marker = late.with_name(late.name + ".done")
    marker.touch()
    os.utime(marker, (1e9, 1e9))
    tables = "[...document.querySelectorAll('table')].map((table) => table.innerText).join()"
    browser.wait_for(f"{tables}.includes('bad.safetensors') && {tables}.includes('late.safetensors')")
    assert "Published, not served" in browser.evaluate("document.body.innerText")
    assert "generation 2 · version v2" in browser.evaluate("document.body.innerText")
    give_orders(browser)
    reply = server.client().predict([ROW])
    assert reply.sha256 == first.sha256 != second.sha256
    # The band: which generation answered when, from left to right, how much of it, and why it came.
    browser.wait_for("document.querySelectorAll('.picture b').length === 3")
    spans = "[...document.querySelectorAll('.picture > div')]"
    assert browser.evaluate(f"{spans}.map((span) => span.querySelector('b').innerText).join()") == "1,2,3"
    lefts = browser.evaluate(f"{spans}.map((span) => span.getBoundingClientRect().left)")
    assert lefts == sorted(set(lefts))
    assert "% of the answers" in browser.evaluate(f"{spans}[1].innerText")
    assert all(browser.evaluate(f"{spans}.map((span) => span.title)"))
    assert browser.evaluate("window.isTheSamePage")
    assert browser.complaints == []


def give_orders(browser):
    browser.evaluate(
        "window.confirm = () => true, window.prompt = () => 'v2 is bad', document.getElementById('operator').click()"
    )
    for token, message in (("wrong", "not right"), (TOKEN, "")):
        browser.evaluate(
            f"document.getElementById('token').value = {json.dumps(token)},"
            "document.querySelector('#unlock button').click()"
        )
        browser.wait_for(f"document.getElementById('message').innerText.includes({json.dumps(message)})")
    browser.wait_for("document.querySelector('.timeline button.small') !== null")
    # A browser says of every 401 that a resource failed to load; here that is what was wanted.
    browser.complaints[:] = [one for one in browser.complaints if "401" not in str(one)]
    browser.evaluate("document.querySelector('.timeline button.small').click()")
    browser.wait_for(f"{GENERATION} === '3'")
    browser.evaluate("[...document.querySelectorAll('.actions button')].pop().click()")
    browser.wait_for("document.querySelector('.model header').innerText.includes('pinned')")


def test_it_shows_every_model_speaks_chinese_and_changes_its_looks(start_server, trainer, tmp_path, browser):
    (tmp_path / "models.toml").write_text(TWO)
    trainer.publish(1)
    server = start_server(workers=1, config="models.toml", model=None, name=None, checkpoints=None)
    server.wait_for_events("swapped", 1)
    browser.prefer("dark")
    browser.open(f"http://127.0.0.1:{server.port}/")
    browser.wait_for(f"{GENERATION} === '1'")
    shown = browser.evaluate("[...document.querySelectorAll('article')].map((card) => card.dataset.model).join()")
    assert shown == "affine,affine@canary,other"
    assert browser.evaluate("document.querySelectorAll('[data-generation]').length") == 1  # nothing else is published
    assert browser.evaluate("document.getElementById('summary').innerText").startswith("3 models, 2 to look at")
    tops = "[...document.querySelectorAll('article')].map((card) => card.getBoundingClientRect().top)"
    stable, canary, other = browser.evaluate(tops)
    assert stable > max(canary, other)  # what needs somebody comes first
    dark = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    assert browser.evaluate("document.getElementById('operator').hidden")  # no token file, no orders
    browser.evaluate("document.getElementById('language').click()")
    text = browser.evaluate("document.body.innerText")
    assert "工作进程" in text
    assert browser.evaluate("document.documentElement.lang") == "zh-CN"
    browser.resize(390, 844)
    assert browser.evaluate("document.documentElement.scrollWidth <= 390")
    server.stop()
    browser.wait_for("document.getElementById('pulse').classList.contains('stale')")


def test_a_request_can_be_tried_by_hand(start_server, trainer, browser):
    trainer.publish(1)
    server = start_server(workers=1)
    server.wait_live(1, workers=1)
    browser.open(f"http://127.0.0.1:{server.port}/")
    browser.wait_for("document.querySelector('.trial') !== null")
    browser.evaluate("document.querySelector('.trial summary').click()")
    browser.wait_for("document.querySelector('.trial textarea').value.includes('inputs')")
    browser.evaluate("document.querySelector('.trial button').click()")
    browser.wait_for("document.querySelector('.trial pre').textContent.startsWith('200')")
    assert '"outputs"' in browser.evaluate("document.querySelector('.trial pre').textContent")
