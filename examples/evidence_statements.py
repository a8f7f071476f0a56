"""What the statements in a record of evidence look like and which bytes are signed (docs/proofs.md, sections 2 and 7)."""
from verify import TAG, fields, need, sha256, u8, u16, u32, u64, unhex, var

PHASES = {"pre_prepare": 0, "prepare": 1, "commit": 2}
STATEMENTS = {
    "vote": "kind phase epoch view slot digest signature",
    "view_change": "kind epoch new_view stable prepared signature",
    "new_view": "kind epoch view view_changes signature",
    "checkpoint": "kind epoch slot sequence digest log_root signature",
}


def form(value, names):
    return fields(value, names, sorted)


def elements(value):
    need(type(value) is list, "no list")
    return value


def view_change_bytes(federation_id, change, member):
    stable = form(change["stable"], "slot sequence digest log_root")
    out = TAG % b"view-change" + federation_id + u64(change["epoch"]) + u64(change["new_view"]) + u16(member) + u64(stable["slot"])
    out += u64(stable["sequence"]) + unhex(stable["digest"], 32) + unhex(stable["log_root"], 32) + u32(len(elements(change["prepared"])))
    for entry in change["prepared"]:
        out += u64(form(entry, "view slot digest")["view"]) + u64(entry["slot"]) + unhex(entry["digest"], 32)
    return out


def view_change_digest(federation_id, change, member):
    return sha256(TAG % b"view-change-digest" + var(view_change_bytes(federation_id, change, member)))


def signed_bytes(federation_id, s, member):
    form(s, STATEMENTS[s["kind"]])
    if s["kind"] == "vote":
        phase = u8(PHASES[s["phase"]])
        return TAG % b"vote" + phase + federation_id + u64(s["epoch"]) + u64(s["view"]) + u64(s["slot"]) + unhex(s["digest"], 32)
    if s["kind"] == "view_change":
        return view_change_bytes(federation_id, s, member)
    if s["kind"] == "new_view":
        out = TAG % b"new-view" + federation_id + u64(s["epoch"]) + u64(s["view"]) + u32(len(elements(s["view_changes"])))
        return out + b"".join(u16(who) + unhex(digest, 32) for who, digest in map(elements, s["view_changes"]))
    out = TAG % b"checkpoint" + federation_id + u64(s["epoch"]) + u64(s["slot"]) + u64(s["sequence"])
    return out + unhex(s["digest"], 32) + unhex(s["log_root"], 32)
