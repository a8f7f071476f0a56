#!/usr/bin/env python3
"""Holds an export against other people's programs: PyPI proofbundle and aics-tlog. They must accept it and refuse every damage.

    external_checkers.py EXPORT PROOF.tlog-proof POLICY.json

POLICY.json is what `exofed export policy --json` prints. Both programs want one log key beside the witnesses; here that is the member whose line the
note has. proofbundle does not count a witness whose key is the log's: for it, the publisher and a quorum less one of the others are the quorum.
"""

import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import aics_tlog
from proofbundle.tlogproof import verify_tlog_proof

EXPORT, PROOF, POLICY = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())
DASH = "\u2014 "
counts = {"accepted": 0, "refused": 0}


def require(what, expected, judged):
    """A verdict that is not the expected one ends the run."""
    if judged != expected:
        sys.exit(f"{what}: {'accepted' if judged else 'refused'}, which is wrong")
    counts["accepted" if judged else "refused"] += 1


def key_id(vkey):
    return vkey.split("+", 2)[1]


def publisher(note):
    """Log key and witness key of the member who published a note, and the other witnesses."""
    ids = [base64.b64decode(line.split(" ")[2])[:4].hex() for line in note.splitlines() if line.startswith(DASH)]
    log = next(vkey for vkey in POLICY["logs"] if key_id(vkey) in ids)
    own = POLICY["witnesses"][POLICY["logs"].index(log)]
    return log, own, [vkey for vkey in POLICY["witnesses"] if vkey != own]


def without(note, vkey):
    """The note without one key's line."""
    lines = note.splitlines(keepends=True)
    kept = [line for line in lines if not (line.startswith(DASH) and base64.b64decode(line.split(" ")[2])[:4].hex() == key_id(vkey))]
    assert len(kept) == len(lines) - 1
    return "".join(kept)


def signers(note, vkeys):
    ids = [base64.b64decode(line.split(" ")[2])[:4].hex() for line in note.splitlines() if line.startswith(DASH)]
    return [vkey for vkey in vkeys if key_id(vkey) in ids]


def changes(data):
    """One bit in some forty places of a byte string."""
    for at in range(0, len(data), max(1, len(data) // 40)):
        yield at, data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


def by_proofbundle(text, entry, keys, threshold):
    log, _, others = keys
    return bool(verify_tlog_proof(text, entry, log, others, threshold=threshold, expected_origin=POLICY["origin"])["ok"])


def check_proofbundle():
    text = PROOF.read_text()
    head, note = text.split("\n\n", 1)
    entry = base64.b64decode(head.splitlines()[1].removeprefix("extra "))
    keys = publisher(note)
    threshold = POLICY["quorum"] - 1
    require("proofbundle: the proof", True, by_proofbundle(text, entry, keys, threshold))
    require("proofbundle: another entry", False, by_proofbundle(text, entry[:-1] + b"\0", keys, threshold))
    for vkey in signers(note, keys[2]):
        require("proofbundle: one signature short", False, by_proofbundle(f"{head}\n\n{without(note, vkey)}", entry, keys, threshold))
    require("proofbundle: no line of the log", False, by_proofbundle(f"{head}\n\n{without(note, keys[0])}", entry, keys, threshold))
    # The extra data is not authenticated, and the entry is given apart; the publisher's own cosignature is not asked for.
    skipped = text.index("index ")
    own = next(line for line in note.splitlines() if line.startswith(DASH) and base64.b64decode(line.split(" ")[2])[:4].hex() == key_id(keys[1]))
    for at, changed in changes(text.encode()):
        if at >= skipped and own.encode() in changed:
            require(f"proofbundle: byte {at} changed", False, by_proofbundle(changed.decode(errors="replace"), entry, keys, threshold))
    # The program itself, as people run it.
    with tempfile.TemporaryDirectory() as scratch:
        leaf, short = Path(scratch, "leaf"), Path(scratch, "short.tlog-proof")
        leaf.write_bytes(entry)
        short.write_text(f"{head}\n\n{without(note, signers(note, keys[2])[0])}")
        witnesses = [argument for vkey in keys[2] for argument in ("--witness-vkey", vkey)]
        for path, expected in ((PROOF, 0), (short, 1)):
            command = [sys.executable, "-m", "proofbundle.cli", "verify-proof", path, "--payload-file", leaf, "--log-vkey", keys[0], *witnesses]
            ran = subprocess.run([*command, "--threshold", str(threshold), "--expected-origin", POLICY["origin"]], capture_output=True, text=True)
            if ran.returncode != expected:
                sys.exit(f"proofbundle verify-proof {path}: exit {ran.returncode}, expected {expected}\n{ran.stdout}{ran.stderr}")


def by_aics_tlog(note):
    try:
        parsed = aics_tlog.parse_note(note)
        log = aics_tlog.parse_vkey(publisher(note)[0])
        policy = aics_tlog.WitnessPolicy.from_dict(POLICY)
        result = aics_tlog.verify_checkpoint(parsed, log, policy=policy, expected_origin=POLICY["origin"])
    except (ValueError, StopIteration):
        return None
    return result if result.ok else None


def audits(size, root):
    """Every tile and every entry under the root."""
    try:
        report = aics_tlog.audit_tiles(aics_tlog.FileSystemTileReader(EXPORT), size, root)
    except (ValueError, OSError):
        return False
    return report.size == size and report.bundles == -(-size // 256)


def check_aics_tlog():
    note = (EXPORT / "checkpoint").read_text()
    result = by_aics_tlog(note)
    require("aics-tlog: the checkpoint", True, result is not None)
    for vkey in signers(note, POLICY["witnesses"]):
        require("aics-tlog: one signature short", False, by_aics_tlog(without(note, vkey)) is not None)
    require("aics-tlog: no line of the log", False, by_aics_tlog(without(note, publisher(note)[0])) is not None)
    for at, changed in changes(note.encode()):
        require(f"aics-tlog: byte {at} of the checkpoint changed", False, by_aics_tlog(changed.decode(errors="replace")) is not None)
    size, root = result.size, result.root
    require("aics-tlog: every tile and entry", True, audits(size, root))
    for path in sorted((EXPORT / "tile").rglob("*")):
        if not path.is_file():
            continue
        # Partial tiles that only an older checkpoint needs are not part of this tree.
        column = path.relative_to(EXPORT / "tile").parts[0]
        if path.parent.suffix == ".p" and int(path.name) != (size >> (0 if column == "entries" else 8 * int(column))) % 256:
            continue
        data = path.read_bytes()
        for at in (0, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
            require(f"aics-tlog: byte {at} of {path} changed", False, audits(size, root))
        path.unlink()
        require(f"aics-tlog: {path} gone", False, audits(size, root))
        path.write_bytes(data)
    require("aics-tlog: everything put back", True, audits(size, root))
    reader = aics_tlog.FileSystemTileReader(EXPORT)
    for index in (0, size // 2, size - 1):
        entry = aics_tlog.read_entry(reader, index, size)
        proof = aics_tlog.inclusion_proof_from_tiles(reader, index, size)
        require(f"aics-tlog: entry {index}", True, aics_tlog.verify_inclusion(aics_tlog.leaf_hash(entry), index, size, proof, root))
        require(f"aics-tlog: entry {index} changed", False, aics_tlog.verify_inclusion(aics_tlog.leaf_hash(entry + b"x"), index, size, proof, root))


check_proofbundle()
check_aics_tlog()
print(f"proofbundle and aics-tlog: {counts['accepted']} accepted, {counts['refused']} refused, as they must be")
