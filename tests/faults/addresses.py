"""Hosts that no stranger's URL may lead to, in every spelling, and a name server's answers for them."""

import socket
from typing import Any, Final

LITERALS: Final = """
127.0.0.1 127.0.0.2 127.1.2.3 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1
100.127.255.254 100.100.100.200 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.17.0.1 172.31.255.255
192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1
203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 168.63.129.16
[::] [::1] [0:0:0:0:0:0:0:1] [::127.0.0.1] [::7f00:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:10.0.0.1]
[::ffff:169.254.169.254] [::ffff:0:127.0.0.1] [::ffff:0:a9fe:a9fe] [0:0:0:0:0:ffff:7f00:1]
[64:ff9b::127.0.0.1] [64:ff9b::a9fe:a9fe] [1::1] [200::1] [4000::1] [8000::1] [feff::1]
[64:ff9b::10.0.0.1] [64:ff9b:1::1] [100::1] [2001::1] [2001:0:7f00:1:0:0:f5ff:fffe] [2001:2::1] [2001:10::1]
[2001:db8::1] [2002:7f00:1::] [2002:a9fe:a9fe::1] [2002:a00:1::] [3fff::1] [5f00::1] [fc00::1] [fd00:ec2::254]
[fd12:3456::1] [fe80::1] [fec0::1] [ff02::1] [ff05::2] [FE80::1] [0000::0001]
""".split()  # noqa: SIM905 - a list would be a page
"""Addresses as they should be written."""

SPELLINGS: Final = """
2130706433 017700000001 0x7f000001 0x7f.0.0.1 0x7f.1 0177.0.0.1 0177.0x0.0.1 127.1 127.0.1 127.000.000.001
0 0x0 00000000 3232235521 2852039166 0xa9fea9fe 0251.0376.0251.0376 169.16689662 10.1 012.0.0.1 127.0.0.1.
127.0.0.01 256.256.256.256 1.2.3.4.5 4294967297 0x17f000001
①②⑦.⓪.⓪.① １２７.0.0.1 127。0。0。1 127．0．0．1 127｡0｡0｡1 ⓛocalhost ｌｏｃａｌｈｏｓｔ
127.0.0.1%00.example.com %31%32%37.0.0.1
127.0.0.1%2f.example.com [::1%25lo] [::1%lo] [fe80::1%25eth0] [fe80::1%eth0] [::1 [::1]] [:::1] [v1.127.0.0.1]
user@127.0.0.1 user:secret@10.0.0.1 example.com@127.0.0.1 example.com%40127.0.0.1 example.com:80@127.0.0.1
localhost LOCALHOST localhost. LocalHost.
""".split()  # noqa: SIM905 - as above
"""Other ways to write them, and what is no host at all."""

NAMES: Final = {
    "metadata.google.internal": ("169.254.169.254",),
    "instance-data.ec2.internal": ("169.254.169.254",),
    "127.0.0.1.nip.example": ("127.0.0.1",),
    "host.docker.internal": ("172.17.0.1",),
    "kubernetes.default.svc": ("10.96.0.1",),
    "router.example": ("192.168.1.1",),
    "six.example": ("::1",),
    "mapped.example": ("::ffff:127.0.0.1",),
    "both.example": ("93.184.215.14", "127.0.0.1"),
    "both-sixes.example": ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", "fd00::1"),
    "xn--localhost-example": ("127.0.0.1",),
    "xn--bcher-kva.example": ("10.0.0.1",),
}
"""Names that lead there."""

SCHEMES: Final = """
file:///etc/passwd file://localhost/etc/passwd FILE:///etc/passwd ftp://127.0.0.1/ gopher://127.0.0.1:70/_a
dict://127.0.0.1:11211/stat ldap://127.0.0.1/ tftp://127.0.0.1/a
data:image/png;base64,AAAA javascript:alert(1)
jar:http://127.0.0.1!/ ws://127.0.0.1/ unix:///run/docker.sock http+unix://%2Frun%2Fdocker.sock/ s3://bucket/a
//127.0.0.1/a http:127.0.0.1/a http:/127.0.0.1/a http:///127.0.0.1/a http:\\\\127.0.0.1\\a http://
https:127.0.0.1 view-source:http://127.0.0.1/ about:blank blob:http://127.0.0.1/ sftp://127.0.0.1/ smb://127.0.0.1/
""".split()  # noqa: SIM905 - as above
"""What is not to be fetched whatever it leads to."""


def resolve(host: str, port: int, *_: Any) -> list[Any]:
    """Resolves the names above and every spelling of a number that the C library takes, and no other name."""
    try:
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except socket.gaierror:
        if host.rstrip(".").lower() == "localhost":
            return answers(("127.0.0.1", "::1"), port)
        if host not in NAMES:
            raise
        return answers(NAMES[host], port)


def answers(addresses: tuple[str, ...], port: int) -> list[Any]:
    """As socket.getaddrinfo()."""
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (one, port, 0, 0))
        if ":" in one
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
        for one in addresses
    ]
