"""Hosts as they are written in device files."""

import re

import pytest

from nasdeploy.runtimes.device import AdbHost, SshHost, parse_host


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("local", None),
        ("ssh://me@board", SshHost("board", "me", None)),
        ("ssh://me@board:2222", SshHost("board", "me", 2222)),
        ("ssh://board", SshHost("board", None, None)),
        ("ssh://me@192.168.0.7:22/", SshHost("192.168.0.7", "me", 22)),
        ("ssh://me@[fe80::1]:2222", SshHost("fe80::1", "me", 2222)),
        ("adb:R58M123ABC", AdbHost("R58M123ABC")),
        ("adb:emulator-5554", AdbHost("emulator-5554")),
        ("adb:192.168.0.7:5555", AdbHost("192.168.0.7:5555")),
        ("adb:[fe80::1]:5555", AdbHost("[fe80::1]:5555")),
    ],
)
def test_hosts(text, host):
    assert parse_host(text) == host


FORMS = "write local, or ssh://user@host, or ssh://user@host:port, or adb:SERIAL"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adb://phone", f"'adb://phone' is no host; {FORMS}"),
        ("adb:", f"'adb:' is no host; {FORMS}"),
        ("adb:-s x", f"'adb:-s x' is no host; {FORMS}"),
        ("adb:a;reboot", f"'adb:a;reboot' is no host; {FORMS}"),
        ("usb://phone", f"'usb://phone' is reached by 'usb'; {FORMS}"),
        ("me@board", f"'me@board' does not say how it is reached; {FORMS}"),
        ("", f"'' does not say how it is reached; {FORMS}"),
        ("ssh://", f"'ssh://' is no host; {FORMS}"),
        ("ssh://me@board/tmp", f"'ssh://me@board/tmp' is no host; {FORMS}"),
        ("ssh://me@board:0", f"'ssh://me@board:0' is no host; {FORMS}"),
        ("ssh://me@-oProxyCommand=x", f"'ssh://me@-oProxyCommand=x' is no host; {FORMS}"),
        ("ssh://-l@board", f"'ssh://-l@board' is no host; {FORMS}"),
        ("ssh://me@a b", f"'ssh://me@a b' is no host; {FORMS}"),
        (
            "ssh://me:secret@board",
            "the host 'board' has a password beside it; leave it out and use an SSH key",
        ),
    ],
)
def test_other_texts_are_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_host(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["ssh://me@board:99999", "ssh://me@board:http", "ssh://me@[fe80"])
def test_what_the_standard_library_refuses_is_one_line_too(text):
    with pytest.raises(ValueError, match="is no host") as caught:
        parse_host(text)
    assert FORMS in str(caught.value)
    assert "\n" not in str(caught.value)
