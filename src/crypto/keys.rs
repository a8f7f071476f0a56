//! Ed25519 keys and signatures, and the three keys that one replica secret yields.

use std::fmt;

use bincode::{Decode, Encode};
use data_encoding::HEXLOWER;
use ed25519_dalek::Signer as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Canonical, Digest};

/// Why a key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are no point of the curve.
    #[error("{0:?} is not a point of the Ed25519 curve")]
    NotAPoint(PublicKey),
    /// The point has small order: it would accept a signature on any message.
    #[error("{0:?} is a weak key (small order)")]
    Weak(PublicKey),
    /// The point has a second encoding, and this is not the canonical one.
    #[error("{0:?} is not the canonical encoding of its point")]
    NotCanonical(PublicKey),
    /// The signature does not verify.
    #[error("the signature does not verify under {0:?}")]
    BadSignature(PublicKey),
    /// The operating system gave no random bytes.
    #[error("the operating system's random source failed")]
    NoRandomness,
}

/// An Ed25519 public key as bytes, not yet checked; [`VerifyingKey`] is the checked form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", HEXLOWER.encode(&self.0[..4]))
    }
}

/// An Ed25519 signature: 64 bytes (R, S).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", HEXLOWER.encode(&self.0[..4]))
    }
}

/// A public key that was admitted: on the curve, canonical, of large order.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey(Verifying);

#[derive(Clone, PartialEq, Eq)]
enum Verifying {
    Ed25519(ed25519_dalek::VerifyingKey),
    Simulated(PublicKey),
}

impl VerifyingKey {
    /// Admits a key.
    ///
    /// # Errors
    /// Refuses what is no point, what is not canonically encoded and what has small order.
    pub fn new(key: PublicKey) -> Result<Self, KeyError> {
        let point = ed25519_dalek::VerifyingKey::from_bytes(&key.0).map_err(|_| KeyError::NotAPoint(key))?;
        if point.is_weak() {
            return Err(KeyError::Weak(key));
        }
        if point.to_edwards().compress().to_bytes() != key.0 {
            return Err(KeyError::NotCanonical(key));
        }
        Ok(Self(Verifying::Ed25519(point)))
    }

    /// A key of the simulator's cheap scheme, which anybody can forge: no file and no peer can bring one in.
    pub(crate) fn simulated(key: PublicKey) -> Self {
        Self(Verifying::Simulated(key))
    }

    /// The key's bytes.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        match &self.0 {
            Verifying::Ed25519(key) => PublicKey(key.to_bytes()),
            Verifying::Simulated(key) => *key,
        }
    }

    /// Checks a signature strictly (RFC 8032, section 5.1.7, without the cofactor, small-order R refused).
    ///
    /// # Errors
    /// [`KeyError::BadSignature`].
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), KeyError> {
        let good = match &self.0 {
            Verifying::Ed25519(key) => key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok(),
            Verifying::Simulated(key) => *signature == simulated_signature(key, message),
        };
        if good { Ok(()) } else { Err(KeyError::BadSignature(self.public())) }
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.public().fmt(f)
    }
}

/// The simulator's cheap scheme: a hash of key and message.
fn simulated_signature(key: &PublicKey, message: &[u8]) -> Signature {
    let Digest(half) = Canonical::hash("exo-federation/v1/simulated-signature\0").fixed(&key.0).var(message).digest();
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&half);
    signature[32..].copy_from_slice(&key.0);
    Signature(signature)
}

/// A secret key. Wiped when dropped, never shown.
#[derive(Clone)]
pub struct SigningKey(Signing);

#[derive(Clone)]
enum Signing {
    Ed25519(Box<ed25519_dalek::SigningKey>),
    Simulated(PublicKey),
}

impl SigningKey {
    /// The key that a 32-byte seed yields (RFC 8032, section 5.1.5).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Signing::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(seed))))
    }

    /// A key of the simulator's cheap scheme ([`VerifyingKey::simulated`]).
    pub(crate) fn simulated(seed: &[u8; 32]) -> Self {
        Self(Signing::Simulated(PublicKey(Canonical::hash("exo-federation/v1/simulated-key\0").fixed(seed).digest().0)))
    }

    /// A new key from the operating system's random source.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = random_bytes::<32>()?;
        let key = Self::from_seed(&seed);
        seed.zeroize();
        Ok(key)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        match &self.0 {
            Signing::Ed25519(key) => PublicKey(key.verifying_key().to_bytes()),
            Signing::Simulated(key) => *key,
        }
    }

    /// Signs; deterministic, so that signing the same bytes again gives the same signature.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        match &self.0 {
            Signing::Ed25519(key) => Signature(key.sign(message).to_bytes()),
            Signing::Simulated(key) => simulated_signature(key, message),
        }
    }

    /// The seed, for the TLS library and key files only.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        match &self.0 {
            Signing::Ed25519(key) => key.to_bytes(),
            Signing::Simulated(key) => key.0,
        }
    }

    /// A 16-byte salt for one update, derived from this secret and the update's id, so that a retry carries the same bytes.
    #[must_use]
    pub fn salt_for(&self, update_id: &[u8]) -> [u8; 16] {
        let digest = Canonical::hash("exo-federation/v1/salt\0").fixed(&self.seed()).var(update_id).digest();
        let mut salt = [0; 16];
        salt.copy_from_slice(&digest.0[..16]);
        salt
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {:?})", self.public())
    }
}

/// A replica's one 32-byte secret. Three keys come from it, each under its own tag, so that none can stand in for another.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ReplicaSecret([u8; 32]);

impl ReplicaSecret {
    /// Takes the secret's bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A new secret from the operating system's random source.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self(random_bytes::<32>()?))
    }

    /// The bytes, for the key file only.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key that signs protocol statements.
    #[must_use]
    pub fn consensus_key(&self) -> SigningKey {
        self.derive("exo-federation/v1/key/consensus\0")
    }

    /// The key that is this replica's TLS identity.
    #[must_use]
    pub fn transport_key(&self) -> SigningKey {
        self.derive("exo-federation/v1/key/transport\0")
    }

    /// The key that cosigns published checkpoints.
    #[must_use]
    pub fn cosignature_key(&self) -> SigningKey {
        self.derive("exo-federation/v1/key/cosignature\0")
    }

    fn derive(&self, tag: &'static str) -> SigningKey {
        let Digest(mut seed) = Canonical::hash(tag).fixed(&self.0).digest();
        let key = SigningKey::from_seed(&seed);
        seed.zeroize();
        key
    }
}

impl fmt::Debug for ReplicaSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplicaSecret(hidden)")
    }
}

/// Random bytes from the operating system.
///
/// # Errors
/// [`KeyError::NoRandomness`].
pub fn random_bytes<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| KeyError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn weak_and_non_canonical_keys_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(VerifyingKey::new(PublicKey(identity)), Err(KeyError::Weak(PublicKey(identity))));
        // y = p + 3 decodes to the point with y = 3, whose canonical encoding is another byte string.
        let mut shifted = [0xff; 32];
        shifted[0] = 0xed + 3;
        shifted[31] = 0x7f;
        assert!(matches!(VerifyingKey::new(PublicKey(shifted)), Err(KeyError::NotCanonical(_) | KeyError::NotAPoint(_))));
    }

    #[test]
    fn the_three_keys_of_a_secret_differ() {
        let secret = ReplicaSecret::from_bytes([7; 32]);
        let keys = [secret.consensus_key().public(), secret.transport_key().public(), secret.cosignature_key().public()];
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
    }

    #[test]
    fn a_signature_binds_every_byte() {
        let key = SigningKey::from_seed(&[1; 32]);
        let verifier = VerifyingKey::new(key.public()).unwrap();
        let signature = key.sign(b"message");
        verifier.verify(b"message", &signature).unwrap();
        assert!(verifier.verify(b"messagf", &signature).is_err());
        for at in 0..64 {
            let mut bad = signature;
            bad.0[at] ^= 1;
            assert!(verifier.verify(b"message", &bad).is_err());
        }
    }
}
