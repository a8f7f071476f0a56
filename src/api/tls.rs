//! HTTPS: TLS 1.3 with the operator's certificate.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::error::ApiError;

/// Reads the chain and its key. A key that others may read is refused.
pub(super) fn acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor, ApiError> {
    let fault = |path: &Path, problem: String| ApiError::Tls { path: path.to_path_buf(), problem };
    let read = CertificateDer::pem_file_iter(chain).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|e| fault(chain, format!("no certificate chain: {e}")))?;
    if certificates.is_empty() {
        return Err(fault(chain, "holds no certificate (PEM)".into()));
    }
    let mode = std::fs::metadata(key).map_err(|e| fault(key, e.to_string()))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(fault(key, format!("mode {mode:04o} lets others read this key; run: chmod 600 {}", key.display())));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| fault(key, format!("no private key (PEM): {e}")))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_protocol_versions(&[&rustls::version::TLS13]);
    let builder = builder.map_err(|e| fault(chain, e.to_string()))?.with_no_client_auth();
    let mut config = builder.with_single_cert(certificates, private).map_err(|e| fault(chain, format!("does not fit {}: {e}", key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
