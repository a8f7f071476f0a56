//! TLS 1.3, mutual, with raw public keys (RFC 7250): a peer's key is its federation key, and there are no certificates.
//!
//! A dialler pins the one key it dials; a listener admits the genesis's keys and no others. No resumption, no tickets, no early data:
//! every connection proves its keys anew.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use zeroize::Zeroizing;

use super::NetError;
use super::directory::{Directory, Speaks};
use super::options::NetOptions;
use crate::crypto::{PublicKey, SigningKey};
use crate::types::FederationId;

/// What stands before the 32 key bytes in an Ed25519 SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What stands before the 32 seed bytes in an Ed25519 PKCS#8 key (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// QUIC wants a syntactically valid name; it is never sent and never looked at.
pub(super) const SERVER_NAME: &str = "replica.invalid";

/// The protocol name of a federation (RFC 7301): a wrong federation has no protocol in common and fails in the handshake.
pub(super) fn alpn(federation: FederationId, speaks: Speaks) -> Vec<u8> {
    let id = federation.0.to_string();
    let short = id.get(..16).unwrap_or(&id);
    let name = match speaks {
        Speaks::Replica => "exofed",
        Speaks::Client => "exofed-client",
    };
    format!("{name}/1/{short}").into_bytes()
}

fn spki_of(key: &PublicKey) -> CertificateDer<'static> {
    CertificateDer::from([SPKI_PREFIX.as_slice(), &key.0].concat())
}

fn key_of(spki: &[u8]) -> Option<PublicKey> {
    let key = spki.strip_prefix(&SPKI_PREFIX)?;
    key.try_into().ok().map(PublicKey)
}

/// The key that the other side of a connection proved, and the protocol it negotiated.
pub(super) fn proven(connection: &quinn::Connection) -> Option<(PublicKey, Vec<u8>)> {
    let identity: Box<dyn Any> = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let key = key_of(chain.first()?)?;
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Some((key, data.protocol?))
}

/// One side's TLS identity.
#[derive(Clone)]
pub(super) struct TlsIdentity {
    provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
}

impl TlsIdentity {
    pub(super) fn new(key: &SigningKey) -> Result<Self, NetError> {
        let mut pkcs8 = Zeroizing::new([0; 48]);
        let (prefix, seed) = pkcs8.split_at_mut(PKCS8_PREFIX.len());
        prefix.copy_from_slice(&PKCS8_PREFIX);
        seed.copy_from_slice(Zeroizing::new(key.seed()).as_slice());
        let signer = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()))?;
        let certified = Arc::new(CertifiedKey::new(vec![spki_of(&key.public())], signer));
        Ok(Self { provider: Arc::new(ring::default_provider()), certified })
    }

    /// For dialling the holder of one key, and nobody else.
    pub(super) fn dial(&self, pinned: &PublicKey, protocol: Vec<u8>, options: &NetOptions) -> Result<quinn::ClientConfig, NetError> {
        let verifier = Pinned { spki: spki_of(pinned), algorithms: self.provider.signature_verification_algorithms };
        let mut tls = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.certified.clone())));
        tls.alpn_protocols = vec![protocol];
        tls.resumption = Resumption::disabled();
        tls.enable_sni = false;
        let crypto = QuicClientConfig::try_from(tls).map_err(|_| NetError::NoInitialCipherSuite)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(options.dialling_transport()?));
        Ok(config)
    }

    /// For listening to the keys of a directory.
    pub(super) fn listen(&self, directory: Arc<Directory>, protocols: Vec<Vec<u8>>, options: &NetOptions) -> Result<quinn::ServerConfig, NetError> {
        let verifier = Admitted { directory, algorithms: self.provider.signature_verification_algorithms };
        let mut tls = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.certified.clone())));
        tls.alpn_protocols = protocols;
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        tls.max_early_data_size = 0;
        let crypto = QuicServerConfig::try_from(tls).map_err(|_| NetError::NoInitialCipherSuite)?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config
            .transport_config(Arc::new(options.listening_transport()?))
            .migration(false)
            .max_incoming(super::options::count(options.max_pending_handshakes))
            .incoming_buffer_size(64 << 10)
            .incoming_buffer_size_total(16 << 20);
        Ok(config)
    }
}

fn verify_raw(
    message: &[u8],
    spki: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if signed.scheme != SignatureScheme::ED25519 {
        return Err(CertificateError::BadSignature.into());
    }
    verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(spki.as_ref()), signed, algorithms)
}

fn refuse() -> Error {
    CertificateError::ApplicationVerificationFailure.into()
}

fn not_tls12() -> Error {
    PeerIncompatible::Tls13RequiredForQuic.into()
}

/// Accepts one key.
struct Pinned {
    spki: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({:?})", key_of(&self.spki))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.spki && intermediates.is_empty() { Ok(ServerCertVerified::assertion()) } else { Err(refuse()) }
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        Err(not_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_raw(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts the keys of a directory.
struct Admitted {
    directory: Arc<Directory>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admitted")
    }
}

impl ClientCertVerifier for Admitted {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let known = key_of(end_entity).is_some_and(|key| self.directory.caller(&key).is_some());
        if known && intermediates.is_empty() { Ok(ClientCertVerified::assertion()) } else { Err(refuse()) }
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        Err(not_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_raw(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
