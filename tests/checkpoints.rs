//! Published checkpoints, static tiles and tlog-proofs of a real federation, held against other people's programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod proof_fixture;
mod stage;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ct_merkle::InclusionProof;
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use data_encoding::{BASE64, HEXLOWER};
use exo_federation::config::FederationFile;
use exo_federation::crypto::merkle::{Range, inclusion_path};
use exo_federation::crypto::{Digest, Signature, VerifyingKey};
use exo_federation::export::{ExportError, TileExport};
use exo_federation::journal::JournalOptions;
use exo_federation::proof::{TlogProof, policy_text};
use exo_federation::recovery::DataDir;
use exo_federation::types::{Cosignature, Federation, Leaf, NoteKey, NoteKeyKind, PublishedCheckpoint, UpdateId};
use proof_fixture::{author, federation, secret};
use serde_json::Value;
use sha2::Sha256;
use signed_note::{Note, StandardVerifier, Verifier, VerifierList};
use stage::{Stage, exofed, files_of, stderr, stdout};
use tlog_tiles::{HashReader, Tile, TileHashReader, TileReader};

/// A member's cosignature key as the crate `signed_note` wants it, which knows only plain signatures.
struct Cosigner(NoteKey);

impl Verifier for Cosigner {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn key_id(&self) -> u32 {
        u32::from_be_bytes(self.0.id())
    }

    /// By the text of C2SP's tlog-cosignature, with no code of ours but the Ed25519 check.
    fn verify(&self, text: &[u8], signature: &[u8]) -> bool {
        let Some((time, signature)) = signature.split_first_chunk() else { return false };
        let Ok(signature) = signature.try_into() else { return false };
        let message = [format!("cosignature/v1\ntime {}\n", u64::from_be_bytes(*time)).as_bytes(), text].concat();
        VerifyingKey::new(self.0.key).unwrap().verify(&message, &Signature(signature)).is_ok()
    }
}

fn note_keys(federation: &Federation, kind: NoteKeyKind) -> Vec<NoteKey> {
    (0..u16::try_from(federation.size()).unwrap()).map(|at| NoteKey::of_member(federation, at, kind).unwrap()).collect()
}

/// How the crates judge a note under the federation's policy: size and root if a log's line and a quorum of cosignatures hold.
fn by_the_crates(note: &[u8], federation: &Federation) -> Result<(u64, [u8; 32]), String> {
    let logs = note_keys(federation, NoteKeyKind::Log).into_iter().map(|key| Box::new(StandardVerifier::new(&key.vkey()).unwrap()) as _);
    let cosigners = note_keys(federation, NoteKeyKind::Cosigner).into_iter().map(|key| Box::new(Cosigner(key)) as Box<dyn Verifier>);
    let known = VerifierList::new(logs.chain(cosigners).collect());
    let note = Note::from_bytes(note).map_err(|e| e.to_string())?;
    let (verified, _) = note.verify(&known).map_err(|e| e.to_string())?;
    let origin = note_keys(federation, NoteKeyKind::Log).swap_remove(0).name;
    let (logs, cosigners): (Vec<_>, Vec<_>) = verified.iter().partition(|signature| signature.name() == origin);
    let checkpoint = tlog_tiles::Checkpoint::from_bytes(note.text()).map_err(|e| e.to_string())?;
    match (logs.len(), cosigners.len()) {
        (0, _) => Err("no line of the log".into()),
        (_, count) if count < federation.quorum() => Err(format!("{count} cosignatures")),
        _ if checkpoint.origin() != origin || !checkpoint.extension().is_empty() => Err("another log".into()),
        _ => Ok((checkpoint.size(), checkpoint.hash().0)),
    }
}

/// Tiles as files, for the crate `tlog_tiles`.
struct Directory<'a>(&'a Path);

impl TileReader for Directory<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        // The crate's paths are those of Go's checksum database, which name the height.
        let path = |tile: &Tile| self.0.join(tile.path().replacen("tile/8/", "tile/", 1));
        tiles.iter().map(|tile| fs::read(path(tile)).map_err(|e| tlog_tiles::Error::InvalidInput(e.to_string()))).collect()
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

/// The entries of all bundles.
fn entries(dir: &Path, size: u64) -> Result<Vec<Vec<u8>>, String> {
    let mut entries = Vec::new();
    while (entries.len() as u64) < size {
        let (tile, rest) = (entries.len() / 256, usize::try_from(size).unwrap() - entries.len());
        let name = format!("tile/entries/{tile:03}");
        let bundle = fs::read(dir.join(if rest >= 256 { name } else { format!("{name}.p/{rest}") })).map_err(|e| e.to_string())?;
        let mut left = bundle.as_slice();
        while let Some((length, behind)) = left.split_first_chunk() {
            let entry = behind.get(..usize::from(u16::from_be_bytes(*length))).ok_or("a torn entry")?;
            left = &behind[entry.len()..];
            entries.push(entry.to_vec());
        }
    }
    if entries.len() as u64 == size { Ok(entries) } else { Err("more entries than the tree has".into()) }
}

/// How the crates judge a whole export: every tile and every entry; gives the number of entries.
fn export_by_the_crates(dir: &Path, federation: &Federation) -> Result<u64, String> {
    let note = fs::read(dir.join("checkpoint")).map_err(|e| e.to_string())?;
    let (size, root) = by_the_crates(&note, federation)?;
    let tiles = Directory(dir);
    let reader = TileHashReader::new(size, tlog_tiles::Hash(root), &tiles);
    let indexes: Vec<u64> = (0..size).map(|leaf| tlog_tiles::stored_hash_index(0, leaf)).collect();
    let hashes = reader.read_hashes(&indexes).map_err(|e| e.to_string())?;
    let entries = entries(dir, size)?;
    let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    for (entry, hash) in entries.into_iter().zip(&hashes) {
        if tlog_tiles::record_hash(&entry) != *hash {
            return Err("an entry that is not in its tile".into());
        }
        tree.push(entry);
    }
    if tree.root().as_bytes().as_slice() == root { Ok(size) } else { Err("another root".into()) }
}

/// A federation with a checkpoint every other slot.
fn quick() -> (Stage, Federation) {
    let stage = Stage::init();
    let file = stage.path("federation.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("window_slots = 256", "window_slots = 8").replace("checkpoint_slots = 64", "checkpoint_slots = 2")).unwrap();
    let federation = FederationFile::read_genesis(&file).unwrap();
    assert_eq!(federation.parameters().checkpoint_slots, 2);
    for index in 0..4 {
        let data = DataDir(stage.path(&format!("replica-{index}/data")));
        fs::remove_dir_all(data.journal()).unwrap();
        data.create(&federation, federation.members()[index].consensus_key, &JournalOptions::default()).unwrap();
    }
    (stage, federation)
}

fn submit(stage: &Stage, numbers: std::ops::Range<u32>) {
    let line = |i| format!("{{\"update_id\":\"update-{i}\",\"data\":\"payload {i}\",\"timestamp\":{i}}}\n");
    let submitted = stage.submit(numbers.map(line).collect::<String>().as_bytes());
    assert!(submitted.status.success(), "{}", stderr(&submitted));
}

/// Waits until these replicas have published a checkpoint of at least this size; gives the last one's note.
fn published(stage: &Stage, federation: &Federation, replicas: &[usize], size: u64) -> PublishedCheckpoint {
    let until = Instant::now() + Duration::from_secs(60);
    let mut last = None;
    for index in replicas {
        let path = stage.path(&format!("replica-{index}/data/checkpoint"));
        loop {
            let note = fs::read(&path).ok().map(|bytes| PublishedCheckpoint::from_note(&bytes, federation).unwrap());
            if let Some(note) = note.filter(|note| note.size >= size) {
                note.verify(federation).unwrap();
                last = Some(note);
                break;
            }
            assert!(Instant::now() < until, "replica-{index} publishes nothing: {}", stage.log_of(*index));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    last.unwrap()
}

fn export(stage: &Stage, target: &str, to: &Path) -> std::process::Output {
    exofed(&["export", "tiles", &stage.text(target), "--genesis", &stage.text("federation.toml"), "--to", to.to_str().unwrap(), "--json"])
}

fn export_well(stage: &Stage, target: &str, to: &Path) -> Value {
    let exported = export(stage, target, to);
    assert!(exported.status.success(), "{}", stderr(&exported));
    serde_json::from_slice(&exported.stdout).unwrap()
}

/// What identifies each file of a directory: its name, inode and time.
fn identities(dir: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let identity = |path: PathBuf| {
        let meta = fs::metadata(&path).unwrap();
        (path, (meta.ino(), meta.mtime(), meta.mtime_nsec()))
    };
    files_of(dir).into_iter().map(identity).collect()
}

#[test]
fn an_export_of_a_running_federation_is_what_other_programs_read() {
    let (mut stage, federation) = quick();
    stage.start();
    (0..7).for_each(|round| submit(&stage, round * 100..round * 100 + 100));
    let first = published(&stage, &federation, &[0, 1, 2, 3], 600).size;
    let out = stage.path("out");
    let exported = export_well(&stage, "replica-2", &out);
    let size = exported["size"].as_u64().unwrap();
    assert!(size >= first && exported["size_before"] == 0, "{exported}");
    assert_eq!(export_by_the_crates(&out, &federation), Ok(size));
    let full_before = identities(&out);

    (7..12).for_each(|round| submit(&stage, round * 100..round * 100 + 100));
    published(&stage, &federation, &[0, 1, 2, 3], 1_100);
    let grown = export_well(&stage, "replica-2", &out);
    assert_eq!(grown["size_before"], size);
    let size = grown["size"].as_u64().unwrap();
    assert_eq!(export_by_the_crates(&out, &federation), Ok(size));
    let after = identities(&out);
    for (path, identity) in &full_before {
        let partial = path.to_str().unwrap().contains(".p/");
        if !partial && !path.ends_with("checkpoint") {
            assert_eq!(after.get(path), Some(identity), "{} was written again", path.display());
        }
    }
    assert!(!out.join("tile/0/002.p").exists() && out.join("tile/0/002").exists(), "a partial tile goes when there is a full one");
    assert!(!out.join(".building").exists());

    let live = stage.path("live");
    export_well(&stage, "client.toml", &live);
    let newest = export_well(&stage, "client.toml", &live)["size"].as_u64().unwrap();
    assert_eq!(export_by_the_crates(&live, &federation), Ok(newest));
    assert_eq!(fs::read(live.join("tile/entries/003")).unwrap(), fs::read(out.join("tile/entries/003")).unwrap());
    stage.stop();
    every_damage_is_refused(&out, &federation, size);
}

/// One byte of each file, and each file lost.
fn every_damage_is_refused(out: &Path, federation: &Federation, size: u64) {
    let files = files_of(out);
    let mut refused = 0;
    for path in &files {
        // A partial tile that an older checkpoint needed is not part of this one's tree.
        let name = path.to_str().unwrap();
        let older = name.contains(".p/") && !needed(name, size);
        let whole = fs::read(path).unwrap();
        for at in [0, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(path, &changed).unwrap();
            let judged = export_by_the_crates(out, federation);
            assert_eq!(judged.is_ok(), older, "{name} with byte {at} changed: {judged:?}");
            refused += usize::from(judged.is_err());
        }
        fs::remove_file(path).unwrap();
        assert_eq!(export_by_the_crates(out, federation).is_ok(), older, "{name} is gone");
        fs::write(path, &whole).unwrap();
    }
    assert!(refused >= 4 * 10, "{refused} of {} files", files.len());
    assert_eq!(export_by_the_crates(out, federation), Ok(size));
}

fn needed(partial: &str, size: u64) -> bool {
    let width: u64 = partial.rsplit('/').next().unwrap().parse().unwrap();
    if partial.contains("tile/1/") { size / 256 % 256 == width } else { size % 256 == width }
}

#[test]
fn a_replica_publishes_without_one_member_and_never_signs_a_size_twice() {
    let (mut stage, federation) = quick();
    stage.start();
    stage.kill(3);
    (0..4).for_each(|round| submit(&stage, round * 10..round * 10 + 10));
    let note = published(&stage, &federation, &[0, 1, 2], 20);
    let cosigners: Vec<u16> = note.cosignatures.iter().map(|c| c.replica).collect();
    assert_eq!(cosigners, [0, 1, 2], "the dead member cosigned nothing");
    assert_eq!(note.publishers.len(), 1);
    let printed = exofed(&["checkpoint", &stage.text("client.toml")]);
    assert!(printed.status.success(), "{}", stderr(&printed));
    assert!(by_the_crates(&printed.stdout, &federation).is_ok());

    stage.stop();
    let data = stage.path("");
    let own = |index: usize| fs::read_to_string(data.join(format!("replica-{index}/data/cosignature"))).unwrap();
    let before: Vec<String> = (0..3).map(own).collect();
    let printed = exofed(&["checkpoint", &stage.text("replica-0"), "--genesis", &stage.text("federation.toml")]);
    assert_eq!(printed.stdout, fs::read(stage.path("replica-0/data/checkpoint")).unwrap(), "a stopped replica's directory is enough");
    stage.start();
    let sequence = stage.agree()[0]["sequence"].as_u64().unwrap();
    // A checkpoint may have become stable by this start. Of what was signed before there is no second statement, with another time.
    let size = |note: &str| note.lines().nth(1).unwrap().parse::<u64>().unwrap();
    for (now, before) in (0..3).map(own).zip(&before) {
        assert!(now == *before || size(&now) > size(before), "{now}{before}");
    }
    // The dead member is back and has caught up: with it the others complete what comes next.
    stage.kill(0);
    (4..8).for_each(|round| submit(&stage, round * 10..round * 10 + 10));
    let note = published(&stage, &federation, &[1, 2, 3], sequence + 10);
    assert_eq!(note.cosignatures.iter().map(|c| c.replica).collect::<Vec<_>>(), [1, 2, 3]);
    stage.stop();
}

#[test]
fn proofs_and_checkpoints_verify_with_the_genesis_alone_and_changed_ones_do_not() {
    let (mut stage, federation) = quick();
    stage.start();
    let early = exofed(&["checkpoint", &stage.text("client.toml")]);
    assert_eq!(early.status.code(), Some(3));
    assert!(stderr(&early).contains("one is every 2 slots"), "{}", stderr(&early));
    (0..6).for_each(|round| submit(&stage, round * 10..round * 10 + 10));
    let note = published(&stage, &federation, &[0, 1, 2, 3], 40);
    let (proof, genesis) = (stage.text("update-7.tlog-proof"), stage.text("federation.toml"));
    let fetched = exofed(&["proof", "update-7", "--config", &stage.text("client.toml"), "-o", &proof]);
    assert!(fetched.status.success(), "{}", stderr(&fetched));
    let same = exofed(&["proof", "update-7", "--form", "tlog", "--config", &stage.text("client.toml")]);
    assert!(stdout(&same).starts_with("c2sp.org/tlog-proof@v1\nextra "), "{}", stderr(&same));
    let verified = exofed(&["verify", &proof, "--genesis", &genesis]);
    assert!(verified.status.success() && stdout(&verified).contains("valid: update update-7 is entry"), "{}", stdout(&verified));
    by_ct_merkle(&fs::read(&proof).unwrap(), &federation);

    let checkpoint = stage.text("note");
    fs::write(&checkpoint, note.to_note(&federation)).unwrap();
    let verified = exofed(&["verify", &checkpoint, "--genesis", &genesis, "--json"]);
    let document: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((&document["valid"], &document["size"], &document["quorum"]), (&true.into(), &note.size.into(), &3.into()));
    let short = PublishedCheckpoint { cosignatures: note.cosignatures[1..].to_vec(), ..note.clone() };
    fs::write(&checkpoint, short.to_note(&federation)).unwrap();
    let refused = exofed(&["verify", &checkpoint, "--genesis", &genesis]);
    assert_eq!((refused.status.code(), stdout(&refused).as_str()), (Some(1), "NOT valid: 2 cosignatures, a quorum is 3\n"));
    let text = fs::read_to_string(&proof).unwrap();
    let index = text.split("index ").nth(1).unwrap().lines().next().unwrap();
    let other = format!("index {}\n", index.parse::<u64>().unwrap() + 1);
    fs::write(&proof, text.replace(&format!("index {index}\n"), &other)).unwrap();
    assert_eq!(exofed(&["verify", &proof, "--genesis", &genesis]).status.code(), Some(1));
    let policy = exofed(&["export", "policy", "--genesis", &genesis]);
    assert_eq!(stdout(&policy), policy_text(&federation));
    stage.stop();
}

/// The proof's path and entry by `ct-merkle`, the checkpoint by the other crates.
fn by_ct_merkle(proof: &[u8], federation: &Federation) {
    let text = std::str::from_utf8(proof).unwrap();
    let (head, note) = text.split_once("\n\n").unwrap();
    let (size, root) = by_the_crates(note.as_bytes(), federation).unwrap();
    let mut lines = head.lines().skip(1);
    let entry = BASE64.decode(lines.next().unwrap().strip_prefix("extra ").unwrap().as_bytes()).unwrap();
    let index = lines.next().unwrap().strip_prefix("index ").unwrap().parse().unwrap();
    let path: Vec<u8> = lines.flat_map(|line| BASE64.decode(line.as_bytes()).unwrap()).collect();
    let root = ct_merkle::RootHash::<Sha256>::new(root.into(), size);
    root.verify_inclusion(&entry, index, &InclusionProof::from_bytes(path.clone())).unwrap();
    let mut other = path;
    other[0] ^= 1;
    assert!(root.verify_inclusion(&entry, index, &InclusionProof::from_bytes(other)).is_err());
}

/// A log of `size` entries without a federation behind it, and a checkpoint that a quorum cosigned.
fn made_up(federation: &Federation, size: u64) -> (Vec<Leaf>, PublishedCheckpoint) {
    let leaf = |sequence| Leaf {
        sequence,
        author: author().public(),
        update_id: UpdateId(format!("update-{sequence}")),
        timestamp: 5,
        data_length: 3,
        data_digest: Digest([7; 32]),
    };
    let leaves: Vec<Leaf> = (1..=size).map(leaf).collect();
    let hashes: Vec<Digest> = leaves.iter().map(Leaf::hash).collect();
    let root = Range::new(0, &hashes, size, &[]).unwrap().root().unwrap();
    let checkpoint = cosigned(federation, size, root, &[0, 1, 3]);
    (leaves, checkpoint)
}

fn cosigned(federation: &Federation, size: u64, root: Digest, cosigners: &[u8]) -> PublishedCheckpoint {
    let sign = |i: u8| Cosignature::sign(federation.id(), &secret(i).cosignature_key(), i.into(), (size, root), 1_700_000_000 + u64::from(i));
    let cosignatures = cosigners.iter().map(|i| sign(*i)).collect();
    PublishedCheckpoint::publish(federation.id(), &secret(0).cosignature_key(), 0, (size, root), cosignatures)
}

fn proof_in(leaves: &[Leaf], checkpoint: &PublishedCheckpoint, at: usize) -> TlogProof {
    let hashes: Vec<Digest> = leaves.iter().map(Leaf::hash).collect();
    let path = inclusion_path(&Range::new(0, &hashes, hashes.len() as u64, &[]).unwrap(), at as u64, hashes.len() as u64).unwrap();
    TlogProof { leaf: leaves[at].clone(), path, checkpoint: checkpoint.clone() }
}

/// Ours and the crates' word on a note.
fn judge(note: &[u8], federation: &Federation) -> (bool, bool) {
    let ours = PublishedCheckpoint::from_note(note, federation).is_ok_and(|note| note.verify(federation).is_ok());
    (ours, by_the_crates(note, federation).is_ok())
}

#[test]
fn every_changed_byte_of_a_note_or_a_proof_is_refused() {
    let federation = federation(4);
    let (leaves, checkpoint) = made_up(&federation, 300);
    let note = checkpoint.to_note(&federation);
    assert_eq!(judge(note.as_bytes(), &federation), (true, true));
    assert_eq!(PublishedCheckpoint::from_note(note.as_bytes(), &federation).unwrap(), checkpoint);
    let log_line = note.find("\n\n").unwrap() + 2..note.find("\u{2014} ").unwrap() + note[note.find("\u{2014} ").unwrap()..].find('\n').unwrap();
    for mask in [0x01, 0x20, 0x80] {
        for at in 0..note.len() {
            let mut changed = note.clone().into_bytes();
            changed[at] ^= mask;
            let (ours, crates) = judge(&changed, &federation);
            // Who published it says nothing that the quorum does not say: under a changed name the line is nobody's, and C2SP wants it ignored.
            assert!(!ours || log_line.contains(&at), "byte {at} with {mask:#x}: {}", String::from_utf8_lossy(&changed));
            assert!(!crates, "the crates want the log's line too: byte {at} with {mask:#x}");
            if ours {
                let left = PublishedCheckpoint::from_note(&changed, &federation).unwrap();
                assert_eq!((left.publishers.len(), &left.cosignatures), (0, &checkpoint.cosignatures));
            }
        }
    }
    let proof = proof_in(&leaves, &checkpoint, 123);
    proof.verify(&federation).unwrap();
    let text = proof.to_text(&federation);
    assert_eq!(TlogProof::from_text(text.as_bytes(), &federation).unwrap(), proof);
    by_ct_merkle(text.as_bytes(), &federation);
    let head = text.find("\n\n").unwrap();
    for at in 0..head {
        let mut changed = text.clone().into_bytes();
        changed[at] ^= 0x01;
        let verified = TlogProof::from_text(&changed, &federation).and_then(|proof| proof.verify(&federation));
        assert!(verified.is_err(), "byte {at}: {}", String::from_utf8_lossy(&changed[..head]));
    }
}

#[test]
fn one_signature_short_twice_of_another_member_or_of_another_root_is_refused() {
    let federation = federation(4);
    let (_, good) = made_up(&federation, 5);
    let note = |checkpoint: &PublishedCheckpoint| checkpoint.to_note(&federation).into_bytes();
    let lines = |edit: &dyn Fn(Vec<&str>) -> Vec<String>| {
        let text = good.to_note(&federation);
        let (head, signatures) = text.split_once("\n\n").unwrap();
        format!("{head}\n\n{}\n", edit(signatures.lines().collect()).join("\n")).into_bytes()
    };
    let own = |lines: Vec<&str>| lines.into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(judge(&note(&good), &federation), (true, true));
    for missing in 1..4 {
        let short = lines(&|mut all| {
            all.remove(missing);
            own(all)
        });
        assert_eq!(judge(&short, &federation), (false, false), "without line {missing}");
        let twice = lines(&|mut all| {
            all[missing] = all[missing % 3 + 1];
            own(all)
        });
        assert_eq!(judge(&twice, &federation), (false, false), "line {missing} stands for another");
    }
    assert_eq!(judge(&lines(&|all| own(all.into_iter().rev().collect())), &federation), (true, true), "the order says nothing");
    let stranger =
        "\u{2014} witness.example/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==";
    let witnessed = lines(&|mut all| {
        all.push(stranger);
        own(all)
    });
    assert_eq!(judge(&witnessed, &federation), (true, true), "a stranger's line is ignored");
    // Member 2's signature under member 3's name.
    let mut wrong = good.clone();
    wrong.cosignatures[2].signature = cosigned(&federation, good.size, good.root, &[2]).cosignatures[0].signature;
    assert_eq!(judge(&note(&wrong), &federation), (false, false));
    let mut other = good.clone();
    other.root = Digest([1; 32]);
    assert_eq!(judge(&note(&other), &federation), (false, false));
    let elsewhere = proof_fixture::federation(5);
    assert!(PublishedCheckpoint::from_note(&note(&good), &elsewhere).is_err(), "another federation's");
    assert!(good.verify(&elsewhere).is_err());
}

/// Exports a log that was made up.
fn export_made_up(federation: &Federation, to: &Path, leaves: &[Leaf], checkpoint: &PublishedCheckpoint) -> Result<u64, ExportError> {
    let mut export = TileExport::begin(federation, to, checkpoint.clone())?;
    while export.next() < export.size() {
        let leaf = &leaves[usize::try_from(export.next()).unwrap()];
        export.push(&leaf.canonical_bytes())?;
    }
    export.finish().map(|exported| exported.files_written)
}

#[test]
fn trees_of_every_shape_grow_by_steps_into_what_they_are_at_once() {
    let federation = federation(4);
    let sizes = [1, 2, 255, 256, 257, 511, 512, 700, 65_536, 65_537, 66_000];
    let (leaves, _) = made_up(&federation, 66_000);
    let hashes: Vec<Digest> = leaves.iter().map(Leaf::hash).collect();
    let at = |size: u64| {
        let whole = &hashes[..usize::try_from(size).unwrap()];
        cosigned(&federation, size, Range::new(0, whole, size, &[]).unwrap().root().unwrap(), &[1, 2, 3])
    };
    let dir = tempfile::tempdir().unwrap();
    let grown = dir.path().join("grown");
    for size in sizes {
        export_made_up(&federation, &grown, &leaves, &at(size)).unwrap();
        assert_eq!(export_by_the_crates(&grown, &federation), Ok(size));
        assert_eq!(export_made_up(&federation, &grown, &leaves, &at(size)).unwrap(), 0, "nothing is new");
        let once = dir.path().join(format!("once-{size}"));
        export_made_up(&federation, &once, &leaves, &at(size)).unwrap();
        for path in files_of(&once) {
            let same = grown.join(path.strip_prefix(&once).unwrap());
            assert_eq!(fs::read(&path).unwrap(), fs::read(&same).unwrap(), "{}", same.display());
        }
    }
    assert!(grown.join("tile/2/000.p/1").exists() && grown.join("tile/0/257.p/208").exists() && !grown.join("tile/0/256.p").exists());
    assert!(matches!(export_made_up(&federation, &grown, &leaves, &at(700)), Err(ExportError::Newer { held: 66_000, size: 700, .. })));
}

#[test]
fn an_export_publishes_nothing_that_the_quorum_did_not_sign() {
    let federation = federation(4);
    let (leaves, checkpoint) = made_up(&federation, 700);
    let (_, earlier) = made_up(&federation, 300);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    // Interrupted before the first checkpoint: tiles without one are no export that anybody reads, and the next one goes on.
    let mut interrupted = TileExport::begin(&federation, &out, checkpoint.clone()).unwrap();
    leaves[..600].iter().for_each(|leaf| interrupted.push(&leaf.canonical_bytes()).unwrap());
    assert!(matches!(TileExport::begin(&federation, &out, checkpoint.clone()), Err(ExportError::Busy { .. })));
    drop(interrupted);
    assert!(!out.join("checkpoint").exists());
    fs::write(out.join("tile/0/001"), b"torn").unwrap();
    export_made_up(&federation, &out, &leaves, &earlier).unwrap();
    let note = fs::read(out.join("checkpoint")).unwrap();

    let mut forged = leaves.clone();
    forged[650].timestamp += 1;
    assert!(matches!(export_made_up(&federation, &out, &forged, &checkpoint), Err(ExportError::Root { .. })));
    let mut short = TileExport::begin(&federation, &out, checkpoint.clone()).unwrap();
    leaves[256..600].iter().for_each(|leaf| short.push(&leaf.canonical_bytes()).unwrap());
    assert!(matches!(short.finish(), Err(ExportError::Short { size: 700, found: 600 })));
    let tile = fs::read(out.join("tile/0/000")).unwrap();
    fs::write(out.join("tile/0/000"), [&[!tile[0]], &tile[1..]].concat()).unwrap();
    assert!(matches!(export_made_up(&federation, &out, &leaves, &checkpoint), Err(ExportError::Root { .. })), "what is there already counts too");
    assert_eq!(fs::read(out.join("checkpoint")).unwrap(), note, "the old checkpoint stays");
    fs::write(out.join("tile/0/000"), tile).unwrap();
    export_made_up(&federation, &out, &leaves, &checkpoint).unwrap();
    assert_eq!(export_by_the_crates(&out, &federation), Ok(700));

    let forked = cosigned(&federation, 700, Digest([9; 32]), &[0, 1, 2]);
    assert!(matches!(export_made_up(&federation, &out, &leaves, &forked), Err(ExportError::Root { .. })), "one size, two roots");
    assert!(matches!(TileExport::begin(&proof_fixture::federation(5), &out, checkpoint.clone()), Err(ExportError::Note { .. })));
    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("index.html"), "").unwrap();
    assert!(matches!(TileExport::begin(&federation, &taken, checkpoint), Err(ExportError::NotAnExport { .. })));
}

#[test]
#[ignore = "needs Python 3.12 with proofbundle and aics-tlog: EXOFED_PYTHON names it"]
fn external_checkers_accept_a_real_export_and_refuse_every_damage() {
    let (mut stage, federation) = quick();
    stage.start();
    (0..7).for_each(|round| submit(&stage, round * 100..round * 100 + 100));
    published(&stage, &federation, &[0, 1, 2, 3], 600);
    let out = stage.path("out");
    export_well(&stage, "replica-1", &out);
    let proof = stage.text("update-300.tlog-proof");
    assert!(exofed(&["proof", "update-300", "--config", &stage.text("client.toml"), "-o", &proof]).status.success());
    let policy = stage.path("policy.json");
    fs::write(&policy, exofed(&["export", "policy", "--json", "--genesis", &stage.text("federation.toml")]).stdout).unwrap();
    stage.stop();
    let python = std::env::var("EXOFED_PYTHON").expect("EXOFED_PYTHON names a Python with proofbundle and aics-tlog");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/external_checkers.py");
    let checked = Command::new(python).arg(script).arg(&out).arg(&proof).arg(&policy).output().unwrap();
    println!("{}", stdout(&checked));
    assert!(checked.status.success(), "{}{}", stdout(&checked), stderr(&checked));
}

#[test]
fn leaves_are_read_back_strictly() {
    let federation = federation(4);
    let (leaves, _) = made_up(&federation, 3);
    let bytes = leaves[1].canonical_bytes();
    assert_eq!(Leaf::from_canonical_bytes(&bytes).unwrap(), leaves[1]);
    for cut in 0..bytes.len() {
        assert!(Leaf::from_canonical_bytes(&bytes[..cut]).is_err(), "{cut} bytes: {}", HEXLOWER.encode(&bytes[..cut]));
    }
    assert!(Leaf::from_canonical_bytes(&[bytes.as_slice(), &[0]].concat()).is_err());
    let huge = [&bytes[..42], &u32::MAX.to_le_bytes(), &bytes[46..]].concat();
    assert!(Leaf::from_canonical_bytes(&huge).is_err());
}
