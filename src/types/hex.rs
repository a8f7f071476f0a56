//! The text forms of hashes, keys and signatures: lower-case hex, one canonical spelling.

use data_encoding::HEXLOWER;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::crypto::{Digest, PublicKey, Signature};

fn parse<'de, const N: usize, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; N], D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|e| D::Error::custom(format!("expected {} lower-case hex digits: {e}", 2 * N)))?;
    bytes.try_into().map_err(|_| D::Error::custom(format!("expected {} hex digits, found {}", 2 * N, text.len())))
}

macro_rules! hex_form {
    ($($name:ident: $bytes:literal),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&HEXLOWER.encode(&self.0))
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                parse::<$bytes, D>(deserializer).map($name)
            }
        }
    )*};
}

hex_form!(Digest: 32, PublicKey: 32, Signature: 64);
