"""Outages that zooadapt 0.1 recorded as failures: a run takes such models up again.

Since then nothing is recorded of a model that met an outage. So this is only about what is written
in older mirrors, and about the words that 0.1 wrote.
"""

import re

from zooadapt.types import Row

_OF_SOURCES = re.compile(
    r"""
    ^the[ ]Hub[ ]at[ ]URL[ ]doesn't[ ]answer:
    | ^the[ ]Hub[ ]refused[ ]URL:.*\b(?:429|5\d\d)\b
    | Invalid[ ]credentials | ExpiredToken | InvalidAccessKeyId | SignatureDoesNotMatch
    | (?:can't[ ]be[ ](?:looked[ ]up|read)):.*
      (?: \b(?:408|407|429|5\d\d)\b | [Cc]annot[ ]connect
        | [Cc]onnect(?:ion)?[ ](?:reset|refused|time) | timed?[ ]?out | [Tt]imeout
        | [Dd]isconnected | unreachable | name[ ]resolution
        | No[ ]space[ ]left | SlowDown | reduce[ ]your[ ]request[ ]rate )
    """,
    re.VERBOSE,
)
"""What the look-up or the download of a checkpoint said."""
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"]*[^\s'\":;,.)]")


def recorded(failure: Row) -> bool:
    """Whether a record's failure was an outage. Of a message that isn't known, it says no."""
    if failure["status"] != "failed":
        return False
    if failure["stage"] == "fetch":
        text = _URL.sub("URL", failure["error"])
        words = [word for word in text.split() if "/" not in word]  # a path may have numbers
        return bool(_OF_SOURCES.search(" ".join(words)))
    # 0.1 named the class of the cause: an error of the store, not one that zooadapt raises itself.
    return failure["stage"] == "publish" and failure["error_type"] in _OF_STORES


_OF_STORES = {
    "OSError", "PermissionError", "TimeoutError", "ConnectionError", "ConnectionResetError",
    "ConnectionRefusedError", "BrokenPipeError", "ClientError", "EndpointConnectionError",
    "ConnectTimeoutError", "ReadTimeoutError", "ClientConnectorError", "ServerDisconnectedError",
    "ClientOSError", "NoCredentialsError", "ResponseParserError", "HTTPClientError",
}  # fmt: skip
