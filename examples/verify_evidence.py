#!/usr/bin/env python3
"""Verifies a record of evidence after docs/proofs.md, section 7, without any code of this project.

    verify_evidence.py GENESIS.json RECORD.json   RECORD: as `exofed evidence export` writes it
    verify_evidence.py --vectors tests/vectors/evidence.json

Needs the `cryptography` package. Exit status: 0 convicted, 1 not.
"""
import json
import sys

from evidence_against import chosen_digest, header_is_invalid
from evidence_statements import PHASES, elements, form, signed_bytes, view_change_digest
from verify import BROKEN, TAG, check_signature, federation_of, need, sha256, u8, u16, u64, unhex, var


def parsed(text):
    """JSON whose fields may stand in any order, but once each, and whose numbers are spelled in one way."""
    def once(pairs):
        need(len(dict(pairs)) == len(pairs), "a field stands twice")
        return dict(pairs)

    def natural(digits):
        need(digits[0] != "-", "a negative number")
        return int(digits)

    need(len(text) <= 64 << 20, "longer than 64 MiB")
    return json.loads(text.decode(), object_pairs_hook=once, parse_int=natural)


class Record:
    """What is told of a record: who is accused, the statements, their signed bytes, and what they are held against."""

    def __init__(self, genesis, document):
        self.id, self.membership, self.members = federation_of(genesis)
        need(unhex(document["federation_id"], 32) == self.id, "another federation")
        self.member = [label for label, _ in self.members].index(document["member"])
        self.said, self.against = elements(document["statements"]), document.get("against")
        need(self.said, "no statement")
        self.signed = [signed_bytes(self.id, statement, self.member) for statement in self.said]
        need(all(statement["epoch"] == 0 for statement in self.said), "another epoch")
        self.first, self.second = self.said[0], self.said[-1]

    def same(self, *names):
        return all(self.first[name] == self.second[name] for name in names)

    def hashes(self, name):
        return [unhex(statement[name], 32) for statement in self.said]

    # Each of these gives the rule broken; the kind, view, slot and digests that make the id; and what two of one kind are ordered by.

    def votes(self):
        need(self.same("phase", "view", "slot") and not self.same("digest"), "no two votes at one place")
        phase, digests = PHASES[self.first["phase"]], self.hashes("digest")
        return f"E{phase + 1}", phase, self.first["view"], self.first["slot"], sorted(digests), digests

    def forgotten_commit(self):
        vote, change = self.said
        view, slot = vote["view"], vote["slot"]
        named = [entry for entry in change["prepared"] if entry["slot"] == slot]
        need(vote["phase"] == "commit" and change["new_view"] > view and change["stable"]["slot"] < slot, "no Commit to be named")
        need(not any(e["view"] > view or e["view"] == view and e["digest"] == vote["digest"] for e in named), "the Commit is named")
        return "E4", 4, view, slot, [unhex(vote["digest"], 32), view_change_digest(self.id, change, self.member)], None

    def unfaithful_leader(self):
        need(self.same("view") and self.first["view"] % len(self.members) == self.member, "another view or leader")
        digests = [chosen_digest(self.id, self.first, self.second, self.against), unhex(self.second["digest"], 32)]
        need(digests[0] != digests[1], "the vote is for what is chosen")
        return "E5", 5, self.second["view"], self.second["slot"], digests, None

    def view_changes(self):
        need(self.same("new_view") and self.signed[0] != self.signed[1], "no two view-changes to one view")
        digests = [view_change_digest(self.id, change, self.member) for change in self.said]
        return "E6", 6, self.first["new_view"], 0, sorted(digests), digests

    def new_views(self):
        need(self.same("view") and self.signed[0] != self.signed[1], "no two new-views of one view")
        need(self.first["view"] % len(self.members) == self.member, "another leader")
        digests = sorted(sha256(TAG % b"new-view-digest" + var(signed)) for signed in self.signed)
        return "E6", 16, self.first["view"], 0, digests, list(map(sha256, self.signed))

    def invalid_header(self):
        need(header_is_invalid(self.id, self.membership, self.first, self.against), "nothing shows that the header is invalid")
        digests = [unhex(self.against["header"]["parent"], 32), unhex(self.first["digest"], 32)]
        return "E7", 7, self.first["view"], self.first["slot"], digests, None

    def checkpoints(self):
        need(self.same("slot") or self.same("sequence"), "two slots and two sizes")
        need(self.signed[0] != self.signed[1], "one checkpoint")
        slot = min(statement["slot"] for statement in self.said)
        return "E9", 9, 0, slot, sorted(self.hashes("log_root")), list(map(sha256, self.signed))


RULES = {
    ("vote", "vote"): Record.votes, ("vote", "view_change"): Record.forgotten_commit, ("new_view", "vote"): Record.unfaithful_leader,
    ("view_change", "view_change"): Record.view_changes, ("new_view", "new_view"): Record.new_views, ("vote",): Record.invalid_header,
    ("checkpoint", "checkpoint"): Record.checkpoints,
}


def verify(genesis, text):
    """What is proved; raises one of BROKEN."""
    document = parsed(text)
    names = "format federation_id rule member statements"
    form(document, names + " against" if "against" in document else names)
    need(document["format"] == "exo-federation/evidence/2", "another format")
    record = Record(genesis, document)
    judge = RULES[tuple(statement["kind"] for statement in record.said)]
    takes_more = judge in (Record.unfaithful_leader, Record.invalid_header)
    need(("against" in document) == takes_more, "something to hold the statements against is missing, or there for nothing")
    rule, kind, view, slot, digests, order = judge(record)
    need(document["rule"] == rule, f"the statements break {rule}")
    need(order is None or order == sorted(order), "the statements are not in order")
    for statement, signed in zip(record.said, record.signed):
        check_signature(statement["signature"], record.members[record.member], signed)
    name = TAG % b"evidence" + u8(kind) + u16(record.member) + u64(0) + u64(view) + u64(slot) + b"".join(digests)
    return {"id": sha256(name).hex(), "rule": rule, "member": document["member"], "view": view, "slot": slot,
            "digests": [digest.hex() for digest in digests]}


def main(arguments):
    try:
        need(len(arguments) == 2, __doc__)
        if arguments[0] == "--vectors":
            from vectors import check
            return check(arguments[1], verify, BROKEN)
        genesis, text = (open(name, "rb").read() for name in arguments)
        proved = verify(json.loads(genesis), text)
    except BROKEN as reason:
        print(f"not convicted: {reason!r}", file=sys.stderr)
        return 1
    print("convicted: {member} broke rule {rule}; record {id}".format(**proved))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
