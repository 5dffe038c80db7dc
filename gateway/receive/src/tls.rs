//! TLS by configuration: PEM files in, a rustls acceptor out. TLS 1.2 and 1.3 only; client certificates when a CA is named.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, crypto::ring};

/// Where the certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM: our certificate, then its intermediates.
    pub cert_file: PathBuf,
    /// PEM: its private key (PKCS#8, PKCS#1 or SEC1).
    pub key_file: PathBuf,
    /// PEM: when set, a client must show a certificate signed by one of these.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or is not PEM.
    #[error("{path}: {source}; expected PEM with {expected}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
        /// What should be in it.
        expected: &'static str,
    },
    /// A file has no certificate in it.
    #[error("{path}: no certificate in it; expected PEM with at least one")]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// Certificate and key do not fit each other, or rustls does not take them.
    #[error("{cert} with {key}: {source}")]
    Pair {
        /// Certificate file.
        cert: PathBuf,
        /// Key file.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The client CA is not one that can verify.
    #[error("{path}: {source}")]
    ClientCa {
        /// Which.
        path: PathBuf,
        /// What rustls says.
        source: VerifierBuilderError,
    },
    /// One of the client CA's certificates cannot be parsed.
    #[error("{path}: {source}")]
    Certificate {
        /// Which.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
}

impl Tls {
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let pair = |source| TlsError::Pair { cert: self.cert_file.clone(), key: self.key_file.clone(), source };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(pair)?;
        let builder = match &self.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    let error = |source| TlsError::Certificate { path: path.clone(), source };
                    roots.add(certificate).map_err(error)?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|source| TlsError::ClientCa { path: path.clone(), source })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_file(&self.key_file).map_err(|source| TlsError::File {
            path: self.key_file.clone(),
            source,
            expected: "a private key",
        })?;
        let mut config = builder.with_single_cert(certificates(&self.cert_file)?, key).map_err(pair)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |source| TlsError::File { path: path.to_owned(), source, expected: "certificates" };
    let found: Vec<_> = CertificateDer::pem_file_iter(path).map_err(error)?.collect::<Result<_, _>>().map_err(error)?;
    match found.is_empty() {
        true => Err(TlsError::Empty { path: path.to_owned() }),
        false => Ok(found),
    }
}
