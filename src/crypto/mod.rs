//! Hashes, keys and the Merkle tree: the only module that calls a cryptographic library.
//!
//! It knows nothing of replicas, slots or files. SHA-256 is the hash (FIPS 180-4), Ed25519 the signature (RFC 8032, checked with
//! `verify_strict`), and the tree is that of RFC 6962, section 2.1.

mod hash;
mod keys;
pub mod merkle;

pub use hash::{Canonical, Digest, Sink, sha256};
pub use keys::{KeyError, PublicKey, ReplicaSecret, Signature, SigningKey, VerifyingKey, random_bytes};
