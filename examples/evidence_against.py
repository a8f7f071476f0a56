"""What E5 and E7 hold a statement against: a new-view's choice, and the tree and body behind a header (docs/proofs.md, section 7)."""
from evidence_statements import elements, form, view_change_digest
from verify import HEADER, TAG, header_digest, leaf_hash, need, sha256, u32, u64, unhex, var

END, ZERO = (1 << 64) - 1, bytes(32)


def place(header):
    """Slot, last sequence number and timestamp; a sum stays within its field. `None` stands for what is before the first batch."""
    if header is None:
        return 0, 0, 0
    last = header["first_sequence"] + header["count"] - 1
    return header["slot"], max(min(last, END), 0), header["timestamp"]


def digest_of(header):
    return ZERO if header is None else header_digest(form(header, HEADER))


def chosen_digest(federation_id, new_view, vote, against):
    """E5: the digest that the new-view chooses for the vote's slot."""
    changes, headers = elements(form(against, "view_changes headers")["view_changes"]), elements(against["headers"])
    for change in changes:
        form(change, "replica epoch new_view stable prepared")
    named = [[change["replica"], view_change_digest(federation_id, change, change["replica"]).hex()] for change in changes]
    need(named == new_view["view_changes"], "the view-changes are not those that the new-view names")
    # Of equally high checkpoints the last one counts; of prepared entries of equal views the first one.
    slot, parent = max(((c["stable"]["slot"], at) for at, c in enumerate(changes)), default=(0, None))
    parent = ZERO if parent is None else unhex(changes[parent]["stable"]["digest"], 32)
    for header in headers:
        slot, digest = slot + 1, digest_of(header)
        entries = [entry for change in changes for entry in change["prepared"] if entry["slot"] == slot]
        need(entries and unhex(max(entries, key=lambda entry: entry["view"])["digest"], 32) == digest, "a header that is not chosen")
        need(header["slot"] == slot and unhex(header["parent"], 32) == parent, "the headers are no chain")
        parent = digest
    need(headers and slot == vote["slot"], "the headers do not end at the vote's slot")
    return parent


def body_digest_and_leaves(federation_id, body, first):
    out, leaves = TAG % b"body" + u32(len(elements(body))), []
    for s in body:
        updates = elements(form(s, "author not_after updates signature")["updates"])
        digest = TAG % b"submission" + federation_id + unhex(s["author"], 32) + u64(s["not_after"]) + u32(len(updates))
        for u in updates:
            digest += var(form(u, "update_id timestamp data_length data_digest")["update_id"].encode())
            digest += u64(u["timestamp"]) + u64(u["data_length"]) + unhex(u["data_digest"], 32)
            leaves.append(leaf_hash({**u, "author": s["author"], "sequence": first + len(leaves)}))
        out += sha256(digest) + unhex(s["signature"], 64)
    return sha256(out), leaves


def root_of_peaks(peaks):
    root = peaks[-1] if peaks else sha256(b"")
    for left in reversed(peaks[:-1]):
        root = sha256(b"\1" + left + root)
    return root


def root_is_false(federation_id, header, parent, growth):
    """E7: whether the root or the count does not follow from the parent's tree and the body."""
    size = place(parent)[1]
    peaks = [unhex(peak, 32) for peak in elements(form(growth, "peaks body")["peaks"])]
    need(size <= 1 << 56 and len(peaks) == bin(size).count("1"), "the peaks do not fit the parent's tree")
    need(parent is None or root_of_peaks(peaks) == unhex(parent["log_root"], 32), "the peaks are not those of the parent's root")
    digest, leaves = body_digest_and_leaves(federation_id, growth["body"], header["first_sequence"])
    need(digest == unhex(header["body_digest"], 32), "the body is not the header's")
    for size, peak in enumerate(leaves, size):
        while size & 1:
            size, peak = size >> 1, sha256(b"\1" + peaks.pop() + peak)
        peaks.append(peak)
    return root_of_peaks(peaks) != unhex(header["log_root"], 32) or place(parent)[1] + len(leaves) != place(header)[1]


def header_is_invalid(federation_id, membership, vote, against):
    """E7: whether a statement names a header that no correct replica votes for."""
    header, parent, growth = (form(against, "header parent growth")[name] for name in ("header", "parent", "growth"))
    need(digest_of(header) == unhex(vote["digest"], 32), "the header is not the vote's")
    need(digest_of(parent) == unhex(header["parent"], 32), "the parent is not the header's")
    slot, last, timestamp = place(parent)
    broken = (unhex(header["federation_id"], 32) != federation_id or unhex(header["membership_digest"], 32) != membership
              or (header["epoch"], header["slot"]) != (vote["epoch"], vote["slot"]) or header["count"] == 0
              or header["slot"] != min(slot + 1, END) or header["first_sequence"] != min(last + 1, END) or header["timestamp"] <= timestamp)
    if growth is None or broken:
        return broken and growth is None
    return root_is_false(federation_id, header, parent, growth)
