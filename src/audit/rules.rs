//! What each rule's break means, and what to do about it.

/// Rules that no accident breaks: keys signed what they must not have, or a history is not the one that was proved before.
pub const CONVICTING: [&str; 3] = ["fork", "old-proof", "rollback"];

/// For a rule: what follows from its break, and what to do.
#[must_use]
pub fn explain(rule: &str) -> (&'static str, &'static str) {
    let restore = "stop the replica and run exofed recover; what it cannot make good it names, and a start fetches it from the other replicas";
    match rule {
        "journal" | "record" => ("bytes on this disk are not what was written; what they held cannot be trusted", restore),
        "gap" | "body" => ("a committed batch is not here; the federation still holds it if a quorum does", restore),
        "log" | "log row" | "merkle file" => (
            "the log beside the journal differs from what the quorum signed; the journal has the history",
            "exofed recover sets the log aside and rebuilds it",
        ),
        "checkpoint" => (
            "the stored checkpoint is not signed by a quorum, or is of another history",
            "exofed recover rebuilds the log, and with it the checkpoints",
        ),
        "vote" => (
            "the voting record holds what no correct replica writes: a start would trust it",
            "do not start this replica: set its data directory aside, and make a new one with exofed recover --new-disk, which rejoins safely",
        ),
        "published" => (
            "what this replica published of its log is damaged, or is not what its history says",
            "the next checkpoint replaces it; if its signatures hold and its root is another, keep this copy and compare it with other replicas'",
        ),
        "quorum" => (
            "nothing proves that the federation committed this batch: the certificate is short, or signatures in it are false",
            "compare with another replica's copy (several targets in one audit); this copy proves nothing here",
        ),
        "signature" | "author" => (
            "the author's signature does not cover these updates, although a quorum accepted them",
            "keep this copy and compare it with other replicas' before repairing anything",
        ),
        "slot" | "parent" | "sequence" | "timestamp" | "root" | "federation" | "epoch" | "membership" | "count" | "kind" | "limit" | "lifetime"
        | "update-id" | "duplicate" => (
            "a batch breaks a rule that every correct replica checks before it signs",
            "keep this copy and compare it with other replicas' (several targets in one audit)",
        ),
        "fork" => (
            "two histories were committed: at least f+1 members signed what they must not have",
            "stop relying on both; export the evidence, compare the convicted members' copies, and settle it between the members",
        ),
        "old-proof" => (
            "an update that was proved before is not in this history: it was rolled back, cut or written anew",
            "do not rely on this copy; audit other replicas' with the same proofs, and restore this one from them",
        ),
        "rollback" => {
            ("the federation shows less than it had shown before", "audit every replica's files; somebody holds back or lost what was committed")
        }
        "answer" => ("a replica gave an answer that does not verify", "audit that replica's files"),
        "configuration" => ("the files beside the data do not fit it: a start would use another directory", "correct replica.toml"),
        "secret" => {
            ("the replica's secret or configuration does not fit the genesis: it cannot start as this member", "restore the secret from its backup")
        }
        _ => ("something is not as it should be", "compare with another replica's copy"),
    }
}
