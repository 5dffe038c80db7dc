//! TLS to the endpoint by configuration: whom to trust, and who we are to an endpoint that asks for a certificate.

use crate::{Config, Error};
use std::path::Path;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

impl Config {
    /// Authorities, and our certificate if there is one. Reads the files: an error names the one that cannot be read.
    pub fn tls(&self) -> Result<ClientTlsConfig, Error> {
        let tls = match &self.ca_file {
            None => ClientTlsConfig::new().with_native_roots(),
            Some(path) => {
                let pem = read("ca_file", path, "certificates")?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
            }
        };
        Ok(match (&self.cert_file, &self.key_file) {
            (Some(certificate), Some(key)) => {
                let certificate = read("cert_file", certificate, "our certificate, then its intermediates")?;
                tls.identity(Identity::from_pem(certificate, read("key_file", key, "its private key")?))
            }
            _ => tls,
        })
    }
}

fn read(key: &'static str, path: &Path, expected: &'static str) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { key, path: path.to_owned(), source, expected })
}
