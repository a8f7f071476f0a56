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


BROKEN = (Refused, ValueError, KeyError, TypeError, AttributeError, OverflowError)


def need(condition, reason):
    if not condition:
        raise Refused(reason)


def sha256(data):
    return hashlib.sha256(data).digest()


FIELDS = {
    "": "format federation_id leaf path header certificate opening",
    "leaf": "sequence author update_id timestamp data_length data_digest",
    "header": "kind federation_id epoch slot first_sequence count parent body_digest log_root timestamp membership_digest",
    "certificate": "epoch view slot digest signatures",
}
TAG, COMMIT = b"exo-federation/v1/%s\0", 2
u8, u16, u32, u64 = (lambda n, size=size: n.to_bytes(size, "little") for size in (1, 2, 4, 8))


def var(data):
    return u32(len(data)) + data


def unhex(text, length):
    data = bytes.fromhex(text)
    need(len(data) == length and data.hex() == text, f"not {length} bytes of lower-case hex")
    return data


def members_bytes(members):
    out = u32(len(members))
    for m in members:
        out += var(m["peer"].encode()) + b"".join(unhex(m[k], 32) for k in ("consensus_key", "transport_key", "cosignature_key"))
    return out


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
    update_id = leaf["update_id"].encode()
    need(1 <= len(update_id) <= 256, "the update id has no 1 to 256 bytes")
    body = u16(1) + u64(leaf["sequence"]) + unhex(leaf["author"], 32) + var(update_id)
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


def check_opening(leaf, opening, data):
    need(len(data) == leaf["data_length"], "the payload's length is not the leaf's")
    digest = sha256(TAG % b"data" + unhex(opening["salt"], 16) + var(leaf["update_id"].encode()) + var(data))
    need(digest == unhex(leaf["data_digest"], 32), "the payload's digest is not the leaf's")


def check_certificate(certificate, federation_id, members, header):
    digest = header_digest(header)
    need(certificate["epoch"] == header["epoch"] == 0, "the certificate's epoch")
    need(certificate["slot"] == header["slot"], "the certificate's slot")
    need(unhex(certificate["digest"], 32) == digest, "the certificate is for another header")
    labels = [label for label, _ in members]
    signed = TAG % b"vote" + u8(COMMIT) + federation_id + u64(certificate["epoch"]) + u64(certificate["view"])
    signed += u64(certificate["slot"]) + digest
    previous = -1
    for entry in certificate["signatures"]:
        need(entry["peer"] in labels, f"{entry['peer']} is no member")
        at = labels.index(entry["peer"])
        need(at > previous, f"{entry['peer']} stands twice or out of order")
        previous = at
        try:
            Ed25519PublicKey.from_public_bytes(members[at][1]).verify(unhex(entry["signature"], 64), signed)
        except InvalidSignature:
            raise Refused(f"the signature of {entry['peer']} does not verify") from None
    quorum = (2 * len(members) + 2) // 3
    need(len(certificate["signatures"]) >= quorum, f"{len(certificate['signatures'])} signatures, a quorum is {quorum}")


def verify(genesis, text, data=None):
    """Returns the proof as parsed; raises Refused."""
    need(len(text) <= 64 << 20, "longer than 64 MiB")
    proof = json.loads(text)
    need((json.dumps(proof, indent=2, ensure_ascii=False) + "\n").encode() == text, "not the canonical spelling")
    for part, fields in FIELDS.items():
        need(list(proof[part] if part else proof) == fields.split(), f"the fields of the {part or 'proof'}")
    need(proof["format"] == "exo-federation/commit-proof/1", "another format")
    federation_id, membership, members = federation_of(genesis)
    leaf, header = proof["leaf"], proof["header"]
    need(unhex(proof["federation_id"], 32) == federation_id == unhex(header["federation_id"], 32), "another federation")
    need(unhex(header["membership_digest"], 32) == membership, "another membership")
    last = header["first_sequence"] + header["count"] - 1
    need(header["count"] >= 1 and 1 <= header["first_sequence"] and last < 1 << 64, "the header's sequence numbers")
    need(header["first_sequence"] <= leaf["sequence"] <= last, "the sequence is outside the batch")
    need(leaf["author"] in [a["key"] for a in genesis["authors"]], "the author is not admitted")
    root = root_of(leaf_hash(leaf), leaf["sequence"] - 1, last, [unhex(p, 32) for p in proof["path"]])
    need(root == unhex(header["log_root"], 32), "the path leads to another root")
    opening = proof["opening"]
    if opening is not None:
        payload = base64.b64decode(opening["data"], validate=True)
        need(base64.b64encode(payload).decode() == opening["data"], "not canonical base64")
        check_opening(leaf, opening, payload)
    if data is not None:
        need(opening is not None, "the proof holds no salt to compare a payload with")
        check_opening(leaf, opening, data)
    check_certificate(proof["certificate"], federation_id, members, header)
    return proof


def check_vectors(path):
    with open(path, "rb") as file:
        cases = json.load(file)["cases"]
    for case in cases:
        genesis, text = case["input"]["genesis"], case["output"]["json"].encode()
        proof = verify(genesis, text)
        need(proof["leaf"]["sequence"] == case["output"]["sequence"], "another sequence")
        for at in range(len(text)):
            try:
                verify(genesis, text[:at] + bytes([text[at] ^ 1]) + text[at + 1:])
            except BROKEN:
                continue
            raise Refused(f"a flip of byte {at} was accepted")
    print(f"{len(cases)} proofs verified, every flipped byte refused")


def main(arguments):
    try:
        if len(arguments) == 2 and arguments[0] == "--vectors":
            check_vectors(arguments[1])
            return 0
        need(len(arguments) in (2, 3), __doc__)
        contents = [open(name, "rb").read() for name in arguments]
        proof = verify(json.loads(contents[0]), contents[1], contents[2] if len(contents) == 3 else None)
    except BROKEN as reason:
        print(f"refused: {reason!r}", file=sys.stderr)
        return 1
    signers = ", ".join(s["peer"] for s in proof["certificate"]["signatures"])
    print(f"proved: {proof['leaf']['update_id']} is update {proof['leaf']['sequence']}, signed by {signers}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
