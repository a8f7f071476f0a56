//! Secret key files: one line `exofed-secret-1 <64 hex digits> <8 hex digits of a checksum>`, mode 0600.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

const MAGIC: &str = "exofed-secret-1";

/// Why a secret file is refused.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Others may read it.
    #[error("{}: mode {mode:04o} lets others read this secret; run: chmod 600 {}", .path.display(), .path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no secret file, or it is damaged.
    #[error("{}: not a secret file, or damaged; restore it from your copy (it cannot be made anew)", .path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
    },
}

fn line(secret: &[u8; 32]) -> Zeroizing<String> {
    let checksum = crc32c::crc32c(secret).to_be_bytes();
    Zeroizing::new(format!("{MAGIC} {} {}\n", HEXLOWER.encode(secret), HEXLOWER.encode(&checksum)))
}

/// Writes a new secret file, readable by its owner alone. Never overwrites.
///
/// # Errors
/// [`SecretError::Io`].
pub fn write_secret(path: &Path, secret: &[u8; 32]) -> Result<(), SecretError> {
    let io = |error| SecretError::Io { path: path.to_path_buf(), error };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
    file.write_all(line(secret).as_bytes()).map_err(io)?;
    file.sync_all().map_err(io)
}

/// Reads a secret file. One whose permissions let others read it, or that differs in any byte from what was written, is refused.
///
/// # Errors
/// [`SecretError`].
pub fn read_secret(path: &Path) -> Result<[u8; 32], SecretError> {
    let io = |error| SecretError::Io { path: path.to_path_buf(), error };
    let mode = fs::metadata(path).map_err(io)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Mode { path: path.to_path_buf(), mode });
    }
    let malformed = || SecretError::Malformed { path: path.to_path_buf() };
    let text = Zeroizing::new(fs::read(path).map_err(io)?);
    let digits = text.get(MAGIC.len() + 1..MAGIC.len() + 65).ok_or_else(malformed)?;
    let bytes = Zeroizing::new(HEXLOWER.decode(digits).map_err(|_| malformed())?);
    let secret: [u8; 32] = bytes.as_slice().try_into().map_err(|_| malformed())?;
    if *line(&secret).as_bytes() == **text { Ok(secret) } else { Err(malformed()) }
}
