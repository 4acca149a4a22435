"""A local server that speaks S3."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server() -> Iterator[str]:
    """Start it with an empty bucket `fleet` and yield its URL; the environment points to it, as it would to a real one."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(urllib.request.Request(f"{url}/fleet", method="PUT")).close()
    with pytest.MonkeyPatch.context() as patch:
        settings: dict[str, Any] = {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "sesame",
            "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
        }  # fmt: skip
        for name, value in settings.items():
            patch.setenv(name, value)
        yield url
    server.stop()
