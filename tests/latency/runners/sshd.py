"""A real SSH server on the loopback interface, with its own host key, that knows one key; and a user's home for it."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Sshd:
    """`start()` it; everything lies in `folder`. What it runs has `folder/tmp` for temporary files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.user = folder, getpass.getuser()
        self.tmp, self.ssh = folder / "tmp", folder / "home" / ".ssh"
        for path in (self.tmp, self.ssh):
            path.mkdir(parents=True)
        self.ssh.chmod(0o700)
        for key in (self.folder / "host_key", self.ssh / "id_ed25519"):
            new_key(key)
        shutil.copy(self.ssh / "id_ed25519.pub", folder / "authorized_keys")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.know()

    @property
    def url(self) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    def know(self) -> None:
        """Make its host key known to the user."""
        key = (self.folder / "host_key.pub").read_text()
        (self.ssh / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}")

    def start(self, **environment: str) -> None:
        variables = {"TMPDIR": str(self.tmp), **environment}
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder}/host_key",
            f"PidFile {self.folder}/pid",
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin yes",
            "MaxStartups 100",
            "SetEnv " + " ".join(f"{name}={value}" for name, value in variables.items()),
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        assert SSHD is not None
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen([SSHD, "-D", "-e", "-f", self.folder / "sshd_config"], stderr=log)
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Stop listening; connections go on."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def descendants(self) -> list[int]:
        """Processes that serve its connections."""
        assert self._process is not None
        return _below(self._process.pid)

    def programs(self) -> list[int]:
        """Measuring programs, as far as they belong to this server."""
        return [pid for pid in _all_processes() if self._is_program(pid)]

    def _is_program(self, pid: int) -> bool:
        try:
            parts = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return parts[1:2] == [b"-c"] and any(part.startswith(bytes(self.tmp)) for part in parts[3:])


def new_key(path: Path) -> None:
    for old in (path, path.with_name(f"{path.name}.pub")):
        old.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _below(pid: int) -> list[int]:
    children = [child for child in _all_processes() if _parent(child) == pid]
    return [*children, *(below for child in children for below in _below(child))]
