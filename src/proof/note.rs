//! A published checkpoint as text: a C2SP signed note (`signed-note`, `tlog-checkpoint`), and the policy by which others check it (`tlog-policy`).

use data_encoding::BASE64;

use super::json::excerpt;
use crate::crypto::{Digest, Signature};
use crate::types::{
    Cosignature, Federation, NoteKey, NoteKeyKind, PublishedCheckpoint, PublishedError, ReplicaIndex, checkpoint_origin, checkpoint_text,
};

/// The longest note that is read: far more than two lines for each of the 1,024 members that a federation has at most.
pub const MAX_NOTE_BYTES: usize = 1 << 20;

/// What every signature line begins with: an em dash and a space.
const SIGNATURE_LINE: &str = "\u{2014} ";

/// Why text is no checkpoint of this federation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Longer than [`MAX_NOTE_BYTES`].
    #[error("the note has {actual} bytes, the limit is {limit}")]
    TooLong {
        /// The bytes allowed.
        limit: usize,
        /// The bytes given.
        actual: usize,
    },
    /// Not the form of a signed note.
    #[error("no signed note: {0}")]
    Form(&'static str),
    /// Another log's.
    #[error("the checkpoint is of {found:?}, expected {expected:?}")]
    Origin {
        /// This federation's origin.
        expected: String,
        /// The one found, its first 64 characters.
        found: String,
    },
    /// A second line under one key.
    #[error("{name} signed twice")]
    Repeated {
        /// The key's name.
        name: String,
    },
    /// Signatures that prove nothing.
    #[error(transparent)]
    Published(#[from] PublishedError),
}

impl PublishedCheckpoint {
    /// The note: origin, size and root, and a line for each publisher and each cosigner.
    #[must_use]
    pub fn to_note(&self, federation: &Federation) -> String {
        let mut note = checkpoint_text(federation.id(), self.size, &self.root);
        note.push('\n');
        let mut line = |replica, kind, signature: &[u8]| {
            let Some(key) = NoteKey::of_member(federation, replica, kind) else { return };
            note.push_str(&format!("{SIGNATURE_LINE}{} {}\n", key.name, BASE64.encode(&[&key.id()[..], signature].concat())));
        };
        self.publishers.iter().for_each(|(replica, signature)| line(*replica, NoteKeyKind::Log, &signature.0));
        for cosignature in &self.cosignatures {
            let timestamped = [&cosignature.timestamp.to_be_bytes()[..], &cosignature.signature.0].concat();
            line(cosignature.replica, NoteKeyKind::Cosigner, &timestamped);
        }
        note
    }

    /// Reads a note; says nothing of what it proves. Lines under keys that are no member's are left out, as C2SP wants it.
    ///
    /// # Errors
    /// [`NoteError`].
    pub fn from_note(bytes: &[u8], federation: &Federation) -> Result<Self, NoteError> {
        let (text, lines) = split(bytes)?;
        let (size, root) = head(text, federation)?;
        let keys = Keys::of(federation);
        let (mut publishers, mut cosignatures) = (Vec::new(), Vec::new());
        for line in lines.lines() {
            let form = || NoteError::Form("a signature line is a dash, a name and base64 of at least five bytes");
            let (name, encoded) = line.strip_prefix(SIGNATURE_LINE).and_then(|line| line.split_once(' ')).ok_or_else(form)?;
            let decoded = BASE64.decode(encoded.as_bytes()).map_err(|_| form())?;
            let (id, signature) = decoded.split_first_chunk::<4>().filter(|(_, rest)| !rest.is_empty() && !name.is_empty()).ok_or_else(form)?;
            let Some((replica, kind)) = keys.find(name, *id) else { continue };
            let length = NoteError::Form("a member's signature line is of another length");
            match kind {
                NoteKeyKind::Log => publishers.push((replica, Signature(signature.try_into().map_err(|_| length)?))),
                NoteKeyKind::Cosigner => {
                    let (timestamp, signature) = signature.split_first_chunk().ok_or(length.clone())?;
                    let (timestamp, signature) = (u64::from_be_bytes(*timestamp), Signature(signature.try_into().map_err(|_| length)?));
                    cosignatures.push(Cosignature { replica, size, root, timestamp, signature });
                }
            }
        }
        publishers.sort_unstable();
        cosignatures.sort_unstable();
        let repeated = |replica: ReplicaIndex| NoteError::Repeated { name: federation.peer(replica).map_or_else(String::new, ToString::to_string) };
        if let Some(pair) = publishers.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(repeated(pair[0].0));
        }
        if let Some(pair) = cosignatures.windows(2).find(|pair| pair[0].replica == pair[1].replica) {
            return Err(repeated(pair[0].replica));
        }
        Ok(Self { size, root, publishers, cosignatures })
    }
}

/// The names and ids of all members' keys.
struct Keys(std::collections::BTreeMap<(String, [u8; 4]), (ReplicaIndex, NoteKeyKind)>);

impl Keys {
    fn of(federation: &Federation) -> Self {
        let kinds = [NoteKeyKind::Log, NoteKeyKind::Cosigner];
        let keys = (0..).zip(federation.members()).flat_map(|(replica, _)| kinds.map(|kind| (replica, kind)));
        let named = keys.filter_map(|(replica, kind)| {
            let key = NoteKey::of_member(federation, replica, kind)?;
            Some(((key.name.clone(), key.id()), (replica, kind)))
        });
        Self(named.collect())
    }

    fn find(&self, name: &str, id: [u8; 4]) -> Option<(ReplicaIndex, NoteKeyKind)> {
        self.0.get(&(name.to_owned(), id)).copied()
    }
}

/// The text and the signature lines.
fn split(bytes: &[u8]) -> Result<(&str, &str), NoteError> {
    if bytes.len() > MAX_NOTE_BYTES {
        return Err(NoteError::TooLong { limit: MAX_NOTE_BYTES, actual: bytes.len() });
    }
    let note = std::str::from_utf8(bytes).map_err(|_| NoteError::Form("it is no UTF-8"))?;
    if note.bytes().any(|byte| byte < 0x20 && byte != b'\n') {
        return Err(NoteError::Form("it holds a control character"));
    }
    let at = note.rfind("\n\n").ok_or(NoteError::Form("no empty line stands before the signatures"))?;
    let (text, lines) = (&note[..=at], &note[at + 2..]);
    if lines.is_empty() || !lines.ends_with('\n') {
        return Err(NoteError::Form("it does not end with a signature line"));
    }
    Ok((text, lines))
}

/// Size and root.
fn head(text: &str, federation: &Federation) -> Result<(u64, Digest), NoteError> {
    let mut lines = text.split_terminator('\n');
    let (Some(origin), Some(size), Some(root), None) = (lines.next(), lines.next(), lines.next(), lines.next()) else {
        return Err(NoteError::Form("a checkpoint of a federation has three lines: origin, size, root"));
    };
    let expected = checkpoint_origin(federation.id());
    if origin != expected {
        return Err(NoteError::Origin { expected, found: excerpt(origin) });
    }
    let size_form = NoteError::Form("the size is no decimal number of up to 64 bits without leading zeros");
    let number: u64 = size.parse().map_err(|_| size_form.clone())?;
    if number.to_string() != size {
        return Err(size_form);
    }
    let root = BASE64.decode(root.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    Ok((number, Digest(root.ok_or(NoteError::Form("the root is not the base64 of 32 bytes"))?)))
}

/// The policy that accepts a checkpoint iff a quorum of the members cosigned it, whichever of them published it (C2SP `tlog-policy`).
#[must_use]
pub fn policy_text(federation: &Federation) -> String {
    let keys = |kind| (0..).zip(federation.members()).filter_map(move |(at, member)| Some((member, NoteKey::of_member(federation, at, kind)?)));
    let mut text = format!("# federation {}: a quorum is {} of {}\n", federation.id(), federation.quorum(), federation.size());
    keys(NoteKeyKind::Log).for_each(|(_, key)| text.push_str(&format!("log {}\n", key.vkey())));
    keys(NoteKeyKind::Cosigner).for_each(|(member, key)| text.push_str(&format!("witness {} {}\n", member.peer, key.vkey())));
    let names: Vec<String> = federation.members().iter().map(|member| member.peer.to_string()).collect();
    // A name of the policy's own: no label holds a slash.
    text.push_str(&format!("group members/quorum {} {}\nquorum members/quorum\n", federation.quorum(), names.join(" ")));
    text
}
