"""The plug-in through the suite that every provider must pass, and its signature against what AWS publishes."""

from __future__ import annotations

from pathlib import Path

import pytest
from creche_aws_batch import PLUGIN
from creche_aws_batch_sigv4 import Keys, signed

from creche.plugin import Job, Provider, Settings
from creche.testing import SECRET, Check, FakeTransport, checks, load_recording

RECORDING = load_recording((Path(__file__).parent / "recording.json").read_bytes(), "recording.json")


def make(transport: FakeTransport) -> Provider:
    secret = f"AKIDEXAMPLE:{SECRET}"
    settings = Settings(base=RECORDING.base, params=RECORDING.params, secret=secret, http=transport, wall=lambda: 1.8e9)
    return PLUGIN.make(settings)


@pytest.mark.parametrize("check", checks(RECORDING, status="/jobs/0/status"), ids=str)
async def test_conformance(check: Check) -> None:
    """The plug-in writes the requests that AWS documents, and reads its answers rightly."""
    await check(make)


def test_the_signature_is_that_of_aws() -> None:
    """The example "get-vanilla" of the test suite for Signature Version 4."""
    headers = signed(
        Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        method="GET",
        url="https://example.amazonaws.com/",
        body=b"",
        now=1440938160.0,
        region="us-east-1",
        service="service",
    )
    assert dict(headers) == {
        "x-amz-date": "20150830T123600Z",
        "authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
    }


async def test_each_request_is_signed_with_the_session_if_there_is_one() -> None:
    """Keys that expire come with a token, which is signed as well."""
    transport = FakeTransport(RECORDING.base)
    transport.on(RECORDING.poll, RECORDING.scenes[0].answer.answer())
    keys = "AKIDEXAMPLE:secret:session"
    settings = Settings(base="", params=RECORDING.params, secret=keys, http=transport, wall=lambda: 1.8e9)
    await PLUGIN.make(settings).poll_many([Job(RECORDING.job)])
    sent = dict(transport.calls[0].headers)
    assert sent["x-amz-security-token"] == "session"
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token" in sent["authorization"]
