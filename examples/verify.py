#!/usr/bin/env python3
"""Verifies a commit proof after docs/proofs.md, without any code of this project.

    verify.py GENESIS.json PROOF.json [DATA]      DATA: a payload to compare with the proof's opening
    verify.py --vectors tests/vectors/commit-proof.json

Needs the `cryptography` package. Exit status: 0 proved, 1 refused.
"""
import base64
import hashlib
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PARAMETERS = ["window_slots", "checkpoint_slots", "max_batch_updates", "max_batch_bytes", "max_submission_updates",
              "max_data_bytes", "max_lifetime_ms", "max_drift_ms", "max_live_ids"]


class Refused(Exception):
    pass


BROKEN = (Refused, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def need(condition, reason):
    if not condition:
        raise Refused(reason)


def sha256(data):
    return hashlib.sha256(data).digest()


PROOF = "format federation_id leaf path header certificate opening"
LEAF = "sequence author update_id timestamp data_length data_digest"
HEADER = "kind federation_id epoch slot first_sequence count parent body_digest log_root timestamp membership_digest"
CERTIFICATE = "epoch view slot digest signatures"
TAG, COMMIT = b"exo-federation/v1/%s\0", 2
P, Y = (1 << 255) - 19, 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL_ORDER = {0, 1, P - 1, P, P + 1, Y, P - Y}  # y of the points whose order divides 8


def integer(number, size):
    need(type(number) is int, f"{number!r} is no integer")
    return number.to_bytes(size, "little")


u8, u16, u32, u64 = (lambda n, size=size: integer(n, size) for size in (1, 2, 4, 8))


def var(data):
    return u32(len(data)) + data


def unhex(text, length):
    data = bytes.fromhex(text)
    need(len(data) == length and data.hex() == text, f"not {length} bytes of lower-case hex")
    return data


def fields(value, names, order=list):
    need(type(value) is dict and order(value) == order(names.split()), f"other fields than {names}")
    return value


def canonical(text, names, format):
    need(len(text) <= 64 << 20, "longer than 64 MiB")
    document = fields(json.loads(text), names)
    need((json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode() == text, "not the canonical spelling")
    need(document["format"] == format, "another format")
    return document


def members_bytes(members):
    keys = ("consensus_key", "transport_key", "cosignature_key")
    return u32(len(members)) + b"".join(var(m["peer"].encode()) + b"".join(unhex(m[k], 32) for k in keys) for m in members)


def federation_of(genesis):
    """The federation id, the membership digest, and the members' labels and keys in order."""
    members = genesis["members"]
    need(len(members) >= 4, "fewer than four members")
    canonical = TAG % b"genesis" + u16(1) + var(genesis["name"].encode()) + members_bytes(members)
    for entries in (genesis["authors"], genesis["readers"]):
        canonical += u32(len(entries)) + b"".join(var(e["name"].encode()) + unhex(e["key"], 32) for e in entries)
    canonical += b"".join(u64(genesis["parameters"][p]) for p in PARAMETERS)
    membership = sha256(TAG % b"membership" + u64(0) + members_bytes(members))
    return sha256(canonical), membership, [(m["peer"], unhex(m["consensus_key"], 32)) for m in members]


def leaf_hash(leaf):
    body = u16(1) + u64(leaf["sequence"]) + unhex(leaf["author"], 32) + var(leaf["update_id"].encode())
    body += u64(leaf["timestamp"]) + u64(leaf["data_length"]) + unhex(leaf["data_digest"], 32)
    return sha256(b"\0" + body)


def header_digest(h):
    kind = {"normal": 0, "epoch_end": 1}[h["kind"]]
    out = TAG % b"header" + u16(1) + u8(kind) + unhex(h["federation_id"], 32) + u64(h["epoch"]) + u64(h["slot"])
    out += u64(h["first_sequence"]) + u32(h["count"]) + unhex(h["parent"], 32) + unhex(h["body_digest"], 32)
    return sha256(out + unhex(h["log_root"], 32) + u64(h["timestamp"]) + unhex(h["membership_digest"], 32))


def root_of(leaf, index, size, path):
    """RFC 9162, section 2.1.3.2."""
    need(index < size, "the leaf is outside the tree")
    node, last, value = index, size - 1, leaf
    for sibling in path:
        need(last != 0, "the path is too long")
        if node & 1 or node == last:
            value = sha256(b"\1" + sibling + value)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            value = sha256(b"\1" + value + sibling)
        node, last = node >> 1, last >> 1
    need(last == 0, "the path is too short")
    return value


def check_header(header, federation_id, membership):
    """The size of the log after the batch."""
    need(unhex(fields(header, HEADER)["federation_id"], 32) == federation_id, "another federation")
    need(unhex(header["membership_digest"], 32) == membership and header["epoch"] == 0, "another membership")
    last = header["first_sequence"] + header["count"] - 1
    need(header["count"] >= 1 and 1 <= header["first_sequence"] and last < 1 << 64, "the header's sequence numbers")
    return last


def check_signature(signature, member, signed):
    signature = unhex(signature, 64)
    need(int.from_bytes(signature[:32], "little") % (1 << 255) not in SMALL_ORDER, f"the signature of {member[0]} is weak")
    try:
        Ed25519PublicKey.from_public_bytes(member[1]).verify(signature, signed)
    except InvalidSignature:
        raise Refused(f"the signature of {member[0]} does not verify") from None


def check_certificate(certificate, federation_id, members, header):
    digest = header_digest(header)
    need(fields(certificate, CERTIFICATE)["epoch"] == header["epoch"] == 0, "the certificate's epoch")
    need(certificate["slot"] == header["slot"] and type(certificate["signatures"]) is list, "the certificate's slot or signatures")
    need(unhex(certificate["digest"], 32) == digest, "the certificate is for another header")
    labels = [label for label, _ in members]
    signed = TAG % b"vote" + u8(COMMIT) + federation_id + u64(certificate["epoch"]) + u64(certificate["view"])
    signed += u64(certificate["slot"]) + digest
    places = [labels.index(fields(entry, "peer signature")["peer"]) for entry in certificate["signatures"]]
    need(places == sorted(set(places)), "a signer stands twice or out of order")
    for at, entry in zip(places, certificate["signatures"]):
        check_signature(entry["signature"], members[at], signed)
    quorum = (2 * len(members) + 2) // 3
    need(len(certificate["signatures"]) >= quorum, f"{len(certificate['signatures'])} signatures, a quorum is {quorum}")


def verify(genesis, text, data=None):
    """What is proved; raises one of BROKEN."""
    proof = canonical(text, PROOF, "exo-federation/commit-proof/1")
    federation_id, membership, members = federation_of(genesis)
    leaf, header = fields(proof["leaf"], LEAF), proof["header"]
    need(unhex(proof["federation_id"], 32) == federation_id, "another federation")
    last = check_header(header, federation_id, membership)
    need(1 <= len(leaf["update_id"].encode()) <= 256, "the update id has no 1 to 256 bytes")
    need(header["first_sequence"] <= leaf["sequence"] <= last, "the sequence is outside the batch")
    need(leaf["author"] in [a["key"] for a in genesis["authors"]], "the author is not admitted")
    need(type(proof["path"]) is list, "the path is no list")
    root = root_of(leaf_hash(leaf), leaf["sequence"] - 1, last, [unhex(p, 32) for p in proof["path"]])
    need(root == unhex(header["log_root"], 32), "the path leads to another root")
    opening, payload = proof["opening"], None
    if opening is not None:
        payload = base64.b64decode(fields(opening, "salt data")["data"], validate=True)
        need(base64.b64encode(payload).decode() == opening["data"], "not canonical base64")
        need(len(payload) == leaf["data_length"], "the payload's length is not the leaf's")
        digest = sha256(TAG % b"data" + unhex(opening["salt"], 16) + var(leaf["update_id"].encode()) + var(payload))
        need(digest == unhex(leaf["data_digest"], 32), "the payload's digest is not the leaf's")
    need(data is None or data == payload, "the payload given is not the proof's")
    check_certificate(proof["certificate"], federation_id, members, header)
    return {"update_id": leaf["update_id"], "sequence": leaf["sequence"], "signers": [s["peer"] for s in proof["certificate"]["signatures"]]}


def main(arguments):
    try:
        if len(arguments) == 2 and arguments[0] == "--vectors":
            from vectors import check
            return check(arguments[1], verify, BROKEN)
        need(len(arguments) in (2, 3), __doc__)
        contents = [open(name, "rb").read() for name in arguments]
        proved = verify(json.loads(contents[0]), contents[1], contents[2] if len(contents) == 3 else None)
    except BROKEN as reason:
        print(f"refused: {reason!r}", file=sys.stderr)
        return 1
    print(f"proved: {proved['update_id']} is update {proved['sequence']}, signed by {', '.join(proved['signers'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
