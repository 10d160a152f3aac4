//! Remedies for errors that keep a hub from starting.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use crate::{
    audit::AuditError,
    auth::users::UsersFileError,
    certificate::CertificateError,
    server::{ListenAddress, ListenError, ServerStartError},
};

/// Returns the error with its remedy.
pub(super) fn start_error(error: &ServerStartError) -> String {
    match error {
        ServerStartError::Listen(ListenError::Bind { key, address: ListenAddress::Tcp(address), error }) => {
            bind_error(key, *address, error)
        }
        ServerStartError::Listen(ListenError::Bind { address: address @ ListenAddress::Unix(_), error, .. }) => {
            format!("cannot listen on {address}: {}", unix_socket_error(error))
        }
        ServerStartError::Listen(ListenError::Address { .. }) => error.to_string(),
        ServerStartError::Tls { section, error } => format!("{section}: {}", certificate_error(error)),
        ServerStartError::Users(error) => format!("login.users_file: {}", users_file_error(error)),
        ServerStartError::Admins(error) => format!("admin.users_file: {}", users_file_error(error)),
        ServerStartError::Workers(cause) => {
            format!("{error}; the system refused {cause}: raise its limits on threads and open files")
        }
        ServerStartError::Audit(error) => format!("audit.output: {}", audit_error(error)),
        ServerStartError::Keys(_) | ServerStartError::Hooks(_) | ServerStartError::Broker(_) => error.to_string(),
    }
}

fn bind_error(key: &str, address: SocketAddr, error: &io::Error) -> String {
    let begin = format!("cannot listen on {address}");
    let at = |port: u16| SocketAddr::new(address.ip(), port);
    match error.kind() {
        ErrorKind::AddrInUse => {
            let next = at(address.port().checked_add(1).unwrap_or(8000));
            format!("{begin}: another process listens there; stop it, or choose another port with --set {key}={next}")
        }
        ErrorKind::PermissionDenied => format!(
            "{begin}: ports below 1024 need a privilege; choose another with --set {key}={}, put a load balancer in \
             front, or grant the program the privilege with: setcap cap_net_bind_service=+ep",
            at(8000)
        ),
        ErrorKind::AddrNotAvailable => format!(
            "{begin}: this machine does not have that address; `ip address` lists its addresses, and 127.0.0.1 always \
             works: --set {key}=127.0.0.1:{}",
            address.port()
        ),
        _ => format!("{begin}: {error}; set another address with --set {key}=127.0.0.1:8000"),
    }
}

fn unix_socket_error(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "its directory does not exist; create it".to_owned(),
        ErrorKind::PermissionDenied => {
            "this user may not write to its directory, or not to the socket that is there; choose another directory, or remove the \
             file"
                .to_owned()
        }
        _ => format!("{error}; choose another path"),
    }
}

/// Returns the error of the certificate files with its remedy.
pub(super) fn certificate_error(error: &CertificateError) -> String {
    let remedy = match error {
        CertificateError::File { .. } => {
            "cert and key must name PEM files that this user can read: the certificate with its chain, and its private key"
        }
        CertificateError::Pair(_) => {
            "key must be the key of the certificate in cert; in that file the certificate comes first, then the chain"
        }
        CertificateError::TicketKey { .. } => {
            "each file of server.tls.ticket_keys must hold 32 to 4096 random bytes that this user can read: openssl rand 80 > FILE"
        }
        CertificateError::NoSystemRoots => "install the package ca-certificates",
        CertificateError::Io(_) => "try again",
    };
    format!("{error}; {remedy}")
}

/// Returns the error of the audit log with its remedy.
pub(super) fn audit_error(error: &AuditError) -> String {
    format!("{error}; name a file in a directory that exists and that the hub may write to, or \"stdout\"")
}

/// Returns the error of the login file with its remedy.
pub(super) fn users_file_error(error: &UsersFileError) -> String {
    match error {
        UsersFileError::Read { path, error: cause } if cause.kind() == ErrorKind::NotFound => {
            format!("{error}; create it with: wardcast user add NAME --file {}", path.display())
        }
        UsersFileError::Read { .. } => format!("{error}; the hub must be able to read it"),
        UsersFileError::InvalidName(..) | UsersFileError::DuplicateName(_) => {
            format!("{error}; edit the file, or run: wardcast user remove NAME")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bind_error_names_a_remedy() {
        let message =
            |address: &str, kind: ErrorKind| bind_error("server.bind", address.parse().unwrap(), &kind.into());
        assert!(message("127.0.0.1:8000", ErrorKind::AddrInUse).contains("--set server.bind=127.0.0.1:8001"));
        assert!(message("[::1]:65535", ErrorKind::AddrInUse).contains("--set server.bind=[::1]:8000"));
        let denied = message("127.0.0.1:80", ErrorKind::PermissionDenied);
        assert!(denied.contains("--set server.bind=127.0.0.1:8000") && denied.contains("setcap"), "{denied}");
        assert!(message("192.0.2.1:8000", ErrorKind::AddrNotAvailable).contains("ip address"));
        assert!(message("127.0.0.1:1", ErrorKind::Other).contains("cannot listen on 127.0.0.1:1"));
    }
}
