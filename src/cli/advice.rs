//! What to do next when a hub does not start: each error in its own words and with a remedy.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use crate::{
    auth::users::UsersFileError,
    server::{CertificateError, ServerStartError},
};

/// The whole message.
pub(super) fn start_error(error: &ServerStartError) -> String {
    match error {
        ServerStartError::Bind { address, error } => bind_error(*address, error),
        ServerStartError::Tls(bad) => format!("server.tls: {}", certificate_error(bad)),
        ServerStartError::Users(bad) => format!("login.users_file: {}", users_file_error(bad)),
        ServerStartError::Workers(cause) => {
            format!("{error}; the system has no room for {cause}: raise its limits of threads and open files")
        }
        ServerStartError::Keys(_) | ServerStartError::Broker(_) => error.to_string(),
    }
}

fn bind_error(address: SocketAddr, error: &io::Error) -> String {
    let begin = format!("cannot listen on {address}");
    let at = |port: u16| SocketAddr::new(address.ip(), port);
    match error.kind() {
        ErrorKind::AddrInUse => {
            let next = at(address.port().checked_add(1).unwrap_or(8000));
            format!(
                "{begin}: another wardcast or program listens there; stop it, or take another port with \
                 --set server.bind={next}"
            )
        }
        ErrorKind::PermissionDenied => format!(
            "{begin}: ports below 1024 want a privilege; take another with --set server.bind={}, put a balancer in \
             front, or allow it to the program with: setcap cap_net_bind_service=+ep",
            at(8000)
        ),
        ErrorKind::AddrNotAvailable => format!(
            "{begin}: this machine does not have that address; `ip address` lists those it has, and 127.0.0.1 is \
             always there: --set server.bind=127.0.0.1:{}",
            address.port()
        ),
        _ => format!("{begin}: {error}; set another address with --set server.bind=127.0.0.1:8000"),
    }
}

/// What is wrong with the certificate files.
pub(super) fn certificate_error(bad: &CertificateError) -> String {
    let remedy = match bad {
        CertificateError::File { .. } => {
            "server.tls.cert and server.tls.key name PEM files that this user can read: the certificate with its chain, \
             and its private key"
        }
        CertificateError::Pair(_) => {
            "server.tls.key must be the key that server.tls.cert was made for; the certificate stands first in its file, \
             the chain after it"
        }
        CertificateError::Io(_) => "try again",
    };
    format!("{bad}; {remedy}")
}

/// What is wrong with the login file.
pub(super) fn users_file_error(bad: &UsersFileError) -> String {
    match bad {
        UsersFileError::Read { path, error } if error.kind() == ErrorKind::NotFound => {
            format!("{bad}; make it with: wardcast user add NAME --file {}", path.display())
        }
        UsersFileError::Read { .. } => format!("{bad}; the hub must be able to read it"),
        UsersFileError::InvalidName(_) | UsersFileError::DuplicateName(_) => {
            format!("{bad}; edit the file, or run: wardcast user remove NAME")
        }
        _ => bad.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bind_error_names_a_remedy() {
        let message = |address: &str, kind: ErrorKind| bind_error(address.parse().unwrap(), &kind.into());
        assert!(message("127.0.0.1:8000", ErrorKind::AddrInUse).contains("--set server.bind=127.0.0.1:8001"));
        assert!(message("[::1]:65535", ErrorKind::AddrInUse).contains("--set server.bind=[::1]:8000"));
        let denied = message("127.0.0.1:80", ErrorKind::PermissionDenied);
        assert!(denied.contains("--set server.bind=127.0.0.1:8000") && denied.contains("setcap"), "{denied}");
        assert!(message("192.0.2.1:8000", ErrorKind::AddrNotAvailable).contains("ip address"));
        assert!(message("127.0.0.1:1", ErrorKind::Other).contains("cannot listen on 127.0.0.1:1"));
    }
}
