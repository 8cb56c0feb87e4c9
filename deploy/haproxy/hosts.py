"""Hosts of their own on one machine: network namespaces on a bridge, else addresses of the loopback."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

HTTP_PORT, GRPC_PORT = 3000, 3001


@dataclass(frozen=True)
class Host:
    """A place where one replica runs.

    Attributes:
        name: `r1`, `r2`, …
        address: its IPv4 address, which this machine reaches.
        namespace: its network namespace; empty on the loopback.
        link: the end of its cable on the bridge; empty on the loopback.
    """

    name: str
    address: str
    namespace: str = ""
    link: str = ""

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs another one on this host, in the same process."""
        return ["ip", "netns", "exec", self.namespace, *command] if self.namespace else list(command)

    def plug(self, state: str) -> None:
        """Plug the cable in (`up`) or pull it out (`down`): packets are lost, and nobody is told.

        Raises:
            RuntimeError: the host is an address of the loopback, which has no cable.
        """
        if not self.link:
            raise RuntimeError(f"{self.name} is on the loopback, which cannot be cut: run this as root on Linux")
        _ip("link", "set", self.link, state)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Make so many hosts until the block ends: namespaces where this process may, else loopback addresses.

    A namespace has its own interfaces, ports and loopback. The bridge's address is this machine's end of the network.
    """
    with ExitStack() as stack:
        network = _bridge(stack)
        yield [
            Host(f"r{index}", f"127.77.0.{index + 10}") if network is None else _namespace(network, index, stack)
            for index in range(1, count + 1)
        ]


def _bridge(stack: ExitStack) -> int | None:
    """Make a bridge `vitrineN` of the network 10.77.N.0/24, and return N; None where this process may make none."""
    for number in range(100):
        name = f"vitrine{number}"
        with suppress(OSError, RuntimeError):
            _ip("link", "add", name, "type", "bridge")
            stack.callback(_ip, "link", "del", name)
            _ip("address", "add", f"10.77.{number}.1/24", "dev", name)
            _ip("link", "set", name, "up")
            return number
        if not _exists(name):
            return None
    return None


def _namespace(network: int, index: int, stack: ExitStack) -> Host:
    name, link = f"vitrine{network}-r{index}", f"vitrine{network}r{index}"
    address = f"10.77.{network}.{index + 10}"
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "del", name)
    _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
    stack.callback(_ip, "link", "del", link)  # the kernel takes its time over those of a namespace that goes
    _ip("link", "set", link, "master", f"vitrine{network}", "up")
    _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", name, "link", "set", "eth0", "up")
    _ip("-n", name, "link", "set", "lo", "up")
    return Host(f"r{index}", address, name, link)


def _exists(name: str) -> bool:
    with suppress(OSError, RuntimeError):
        _ip("link", "show", name)
        return True
    return False


def _ip(*words: str) -> None:
    ran = subprocess.run(["ip", *words], capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {ran.stderr.strip()}")
