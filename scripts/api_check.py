"""For scripts/api-check.sh: schemathesis compares text with its schema too, once it is told that it is text."""

import schemathesis


@schemathesis.deserializer("text/plain")
def text(_context, response):
    return response.content.decode()
