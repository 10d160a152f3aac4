//! Checks the identity of a server over TLS.

use std::{io, path::PathBuf, sync::Arc};

use rustls::{ClientConfig, crypto::aws_lc_rs};
use tokio_rustls::TlsConnector;

use crate::certificate::{self, KnownCertificate};

/// Which certificate of a server is accepted.
#[derive(Clone, Debug)]
pub(in crate::cli) enum ServerIdentity {
    /// Any. Only for requests without a secret, or to a hub of the same user on this machine.
    Any,
    /// That of this file. The certificate of a hub is for its public name, which is not the name by which its own machine reaches it.
    Exactly(PathBuf),
    /// One for the name in the URL, by the certificate authorities of a file or else of the system.
    SignedBy(Option<PathBuf>),
}

impl ServerIdentity {
    /// Returns a TLS client that accepts this identity.
    pub(super) fn connector(&self) -> io::Result<TlsConnector> {
        let expected = match self {
            Self::SignedBy(file) => return certificate::tls_connector(file.as_deref()).map_err(io::Error::other),
            Self::Any => None,
            Self::Exactly(file) => {
                let chain = certificate::read_chain(file).map_err(io::Error::other)?;
                Some(chain.into_iter().next().ok_or_else(|| io::Error::other("the file has no certificate"))?)
            }
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(io::Error::other)?;
        let verifier = Arc::new(KnownCertificate { provider, expected });
        let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}
