"""Programs that have no network, and whose attempts at one are seen, by native code and by processes they start too.

They run in a namespace of the kernel's without a route, behind a library that the linker loads before all others
(`LD_PRELOAD`): it writes down each connection, each datagram and each name that is looked up, and lets it be tried.
Sockets alone are none: the system's library for UUIDs asks one for the machine's own address.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ATTEMPTS = "ATTEMPTS_AT_A_NETWORK"
"""The variable of a process's environment that names the file in which attempts are written down from now on."""
_OUTSIDE = ("unshare", "--map-root-user", "--net")
_LIBRARY = r"""
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void written(const char *what, const char *of)
{
    char line[300];
    const char *path = getenv("ATTEMPTS_AT_A_NETWORK");
    int length = snprintf(line, sizeof line - 1, "%s %.200s\n", what, of ? of : "");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
    if (file < 0 || write(file, line, length) != length)
        abort();
    close(file);
}

#define THE_NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void reached(const char *what, const struct sockaddr *to)
{
    char text[INET6_ADDRSTRLEN] = "";
    if (to && to->sa_family == AF_INET)
        written(what, inet_ntop(AF_INET, &((const struct sockaddr_in *)to)->sin_addr, text, sizeof text));
    else if (to && to->sa_family == AF_INET6)
        written(what, inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)to)->sin6_addr, text, sizeof text));
}

int connect(int socket, const struct sockaddr *to, socklen_t size)
{
    reached("connect", to);
    return THE_NEXT(connect)(socket, to, size);
}

ssize_t sendto(int socket, const void *content, size_t length, int flags, const struct sockaddr *to, socklen_t size)
{
    reached("sendto", to);
    return THE_NEXT(sendto)(socket, content, length, flags, to, size);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    written("getaddrinfo", node);
    return THE_NEXT(getaddrinfo)(node, service, hints, found);
}

struct hostent *gethostbyname(const char *name)
{
    written("gethostbyname", name);
    return THE_NEXT(gethostbyname)(name);
}
"""


def lacking() -> str | None:
    """Return why nothing can be watched here; None if it can."""
    if sys.platform != "linux":
        return "namespaces and LD_PRELOAD are Linux's"
    for tool in ("gcc", "unshare"):
        if not shutil.which(tool):
            return f"no {tool}"
    done = subprocess.run([*_OUTSIDE, "true"], capture_output=True, check=False)
    return f"no namespace without a network: {done.stderr.decode().strip()}" if done.returncode else None


def run_watched(command: Sequence[str], folder: Path, attempts: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command without a network; `attempts` is made, and has a line for each attempt at one.

    Files of its own are put into `folder`.
    """
    source, library = folder / "watch.c", folder / "watch.so"
    source.write_text(_LIBRARY)
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    attempts.touch()
    environment = os.environ | {"LD_PRELOAD": str(library), ATTEMPTS: str(attempts)}
    return subprocess.run(
        [*_OUTSIDE, *command], capture_output=True, text=True, errors="replace", env=environment, check=False
    )
