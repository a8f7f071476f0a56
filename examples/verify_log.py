#!/usr/bin/env python3
"""Verifies after docs/proofs.md, section 5, that one log is the beginning of another, without any code of this project.

    verify_log.py GENESIS.json PROOF.json         PROOF: as `exofed proof --consistency` writes it
    verify_log.py --vectors tests/vectors/consistency-proof.json

Needs the `cryptography` package. Exit status: 0 proved, 1 refused.
"""
import json
import sys

from verify import BROKEN, canonical, check_certificate, check_header, federation_of, need, sha256, unhex

PROOF = "format federation_id old_size old_root path header certificate"


def roots_of(old, new, old_root, path):
    """RFC 9162, section 2.1.4.2: the roots of both logs that the path leads to; 0 < old < new."""
    hashes = path if old & (old - 1) else [old_root] + path
    need(hashes, "the path is empty")
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    of_old = of_new = hashes[0]
    for sibling in hashes[1:]:
        need(last != 0, "the path is too long")
        if node & 1 or node == last:
            of_old, of_new = sha256(b"\1" + sibling + of_old), sha256(b"\1" + sibling + of_new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            of_new = sha256(b"\1" + of_new + sibling)
        node, last = node >> 1, last >> 1
    need(last == 0, "the path is too short")
    return of_old, of_new


def check_consistency(old, old_root, new, new_root, path):
    if old == 0:
        need(not path and old_root == sha256(b""), "the empty log has another root, and needs no path")
    elif old == new:
        need(not path and old_root == new_root, "a log is its own beginning without a path and under one root")
    else:
        need(0 < old < new, "the older log is not the smaller")
        need(roots_of(old, new, old_root, path) == (old_root, new_root), "the path leads to other roots")


def verify(genesis, text):
    """What is proved; raises one of BROKEN."""
    proof = canonical(text, PROOF, "exo-federation/consistency-proof/1")
    federation_id, membership, members = federation_of(genesis)
    need(unhex(proof["federation_id"], 32) == federation_id, "another federation")
    header, old = proof["header"], proof["old_size"]
    new = check_header(header, federation_id, membership)
    need(type(old) is int and type(proof["path"]) is list, "the older log's size or the path")
    path = [unhex(hash, 32) for hash in proof["path"]]
    check_consistency(old, unhex(proof["old_root"], 32), new, unhex(header["log_root"], 32), path)
    check_certificate(proof["certificate"], federation_id, members, header)
    return {"old_size": old, "old_root": proof["old_root"], "new_size": new, "new_root": header["log_root"]}


def main(arguments):
    try:
        need(len(arguments) == 2, __doc__)
        if arguments[0] == "--vectors":
            from vectors import check
            return check(arguments[1], verify, BROKEN)
        genesis, text = (open(name, "rb").read() for name in arguments)
        proved = verify(json.loads(genesis), text)
    except BROKEN as reason:
        print(f"refused: {reason!r}", file=sys.stderr)
        return 1
    print("proved: the log of {old_size} entries with root {old_root} is the beginning".format(**proved))
    print("        of the log of {new_size} entries with root {new_root}".format(**proved))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
