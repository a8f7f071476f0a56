//! Why the HTTP interface does not start.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the HTTP interface does not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address cannot be had.
    #[error("HTTP cannot listen at {address}: {error}; set another address, or \"\" for no HTTP, as listen under [http]")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// A certificate or key that cannot be used.
    #[error("{}: {problem}", .path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}
