"""`WEBHOOK_ALLOW`: the table of URLs and addresses that it lets through."""

import pytest

from config.webhook_allow import WebhookAllow

ALLOW = WebhookAllow.parse(
    "hooks.example.com, *.customers.example.com, ports.example.com:8443, any.example.com:*, inside.example.com,"
    " 10.1.2.3:9000, localhost:*, [::1]:9000, 10.0.0.0/8, fd00::/8"
)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com",
        "https://HOOKS.example.com./a?b=c",
        "https://hooks.example.com:443/",
        "https://a.customers.example.com/",
        "https://a.b.customers.example.com/",
        "https://ports.example.com:8443/",
        "https://any.example.com:1/",
        "https://10.1.2.3:9000/",
        "http://localhost:8080/",
        "https://localhost/",
        "http://[::1]:9000/",
    ],
)
def test_urls_that_are_allowed(url: str) -> None:
    assert ALLOW.refusal(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "https://hooks.example.com:8443/",
        "https://ports.example.com/",
        "https://example.com/",
        "https://evilhooks.example.com/",
        "https://hooks.example.com.evil.test/",
        "https://customers.example.com/",
        "https://.customers.example.com/",
        "https://evilcustomers.example.com/",
        "https://hooks.example.com@evil.test/",
        "https://evil.test#@hooks.example.com/",
        "https://evil.test\\@hooks.example.com/",
        "https://user:pass@hooks.example.com/",
        "https://hooks.example.com/#fragment",
        "https://hooks.example.com/\r\nx: y",
        "https://hooks.example.com /",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/",
        "https://höoks.example.com/",
        "https://[::1/",
        "https://10.1.2.3/",
        "https://10.1.2.4:9000/",
        "http://10.1.2.3:9000/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://169.254.169.254/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "//hooks.example.com/",
        "hooks.example.com",
        "https://",
        "",
        "https://hooks.example.com/" + "x" * 2048,
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    assert ALLOW.refusal(url)
    assert not ALLOW.may_connect(url, "93.184.216.34")


@pytest.mark.parametrize(
    ("url", "address", "is_allowed"),
    [
        ("https://hooks.example.com/", "93.184.216.34", True),
        ("https://hooks.example.com/", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("https://hooks.example.com/", "10.9.9.9", True),
        ("https://hooks.example.com/", "fd00::1", True),
        ("https://hooks.example.com/", "::ffff:10.9.9.9", True),
        ("https://hooks.example.com/", "192.168.0.1", False),
        ("https://hooks.example.com/", "172.16.0.1", False),
        ("https://hooks.example.com/", "100.64.0.1", False),
        ("https://hooks.example.com/", "127.0.0.1", False),
        ("https://hooks.example.com/", "169.254.169.254", False),
        ("https://hooks.example.com/", "0.0.0.0", False),
        ("https://hooks.example.com/", "224.0.0.1", False),
        ("https://hooks.example.com/", "255.255.255.255", False),
        ("https://hooks.example.com/", "::1", False),
        ("https://hooks.example.com/", "::", False),
        ("https://hooks.example.com/", "::ffff:127.0.0.1", False),
        ("https://hooks.example.com/", "::ffff:169.254.169.254", False),
        ("https://hooks.example.com/", "64:ff9b::7f00:1", False),
        ("https://hooks.example.com/", "2002:7f00:1::", False),
        ("https://hooks.example.com/", "fe80::1", False),
        ("https://hooks.example.com/", "ff02::1", False),
        ("https://hooks.example.com/", "fc00::1", False),
        ("https://hooks.example.com/", "fec0::1", False),
        ("https://hooks.example.com/", "::7f00:1", False),
        ("https://hooks.example.com/", "64:ff9b:1::7f00:1", False),
        ("https://hooks.example.com/", "2001:0:7f00:1::", False),
        ("https://hooks.example.com/", "3fff::1", False),
        ("https://hooks.example.com/", "5f00::1", False),
        ("https://hooks.example.com/", "168.63.129.16", False),
        ("https://hooks.example.com/", "::ffff:168.63.129.16", False),
        ("https://hooks.example.com/", "168.63.129.17", True),
        ("https://hooks.example.com/", "192.88.99.1", False),
        ("https://hooks.example.com/", "not an address", False),
        ("https://a.customers.example.com/", "127.0.0.1", False),
        ("http://localhost:8080/", "127.0.0.1", True),
        ("http://localhost:8080/", "::1", True),
        ("http://localhost:8080/", "93.184.216.34", False),
        ("https://10.1.2.3:9000/", "10.1.2.3", True),
        ("https://10.1.2.3:9000/", "10.1.2.4", False),
    ],
)
def test_the_address_decides_at_the_delivery(url: str, address: str, is_allowed: bool) -> None:
    """An allowed name that leads inside, by mistake or by a rebinding, is not followed unless its network is listed."""
    assert ALLOW.may_connect(url, address) is is_allowed


def test_nothing_is_allowed_unless_it_is_named() -> None:
    """An unset variable, and one with networks alone."""
    for value in ("", " , ", "10.0.0.0/8"):
        refusal = WebhookAllow.parse(value).refusal("https://hooks.example.com/")
        assert refusal is not None
        assert "WEBHOOK_ALLOW" in refusal


@pytest.mark.parametrize(
    "entry",
    ["*", "https://a.example.com", "a.example.com:0", "a.example.com:x", "10.0.0.1/8", "a b", "a.*.b", "/", ":80"],
)
def test_entries_that_make_no_sense(entry: str) -> None:
    with pytest.raises(ValueError, match=r"neither|not a host"):
        WebhookAllow.parse(f"fine.example.com,{entry}")
