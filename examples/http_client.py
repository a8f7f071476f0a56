#!/usr/bin/env python3
"""A client over HTTP, without any package: submits an update once, waits for the commit, reads its proof.

    TOKEN=$(exofed token add me --config fed/replica-0/replica.toml) python3 examples/http_client.py http://127.0.0.1:7480 proof.json
    exofed verify proof.json --genesis fed/federation.toml
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request


def call(url, body=None):
    """The answer's status and body. What says that it is busy is asked again when it says so."""
    headers = {"Authorization": "Bearer " + os.environ["TOKEN"], "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            wait = error.headers.get("Retry-After")
            problem = json.load(error)
            if wait is None:
                sys.exit(f"{problem['title']}: {problem['detail']}")
            time.sleep(int(wait))


def main(url, proof_file):
    # The id makes every retry safe: it is appended once, however often this runs.
    fate = json.loads(call(url + "/v1/updates", {"update_id": "from-python", "data": "hello"}))
    while fate["status"] in ("pending", "unknown"):
        time.sleep(0.2)
        fate = json.loads(call(url + fate["href"]))
    print(fate["status"], "at", fate["sequence"])
    with open(proof_file, "wb") as file:
        file.write(call(url + fate["proof"]))
    print("wrote", proof_file)


if __name__ == "__main__":
    if len(sys.argv) != 3 or "TOKEN" not in os.environ:
        sys.exit(__doc__)
    main(*sys.argv[1:])
