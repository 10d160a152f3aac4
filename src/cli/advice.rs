//! What to do next when a hub does not start: each error in its own words and with a remedy.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use crate::{
    auth::login::BadUsers,
    server::{BadCertificate, StartError},
};

/// The whole message.
pub(super) fn start(error: &StartError) -> String {
    match error {
        StartError::Bind { address, error } => bind(*address, error),
        StartError::Tls(bad) => format!("server.tls: {}", certificate(bad)),
        StartError::Users(bad) => format!("login.users_file: {}", users(bad)),
        StartError::Workers(cause) => {
            format!("{error}; the system has no room for {cause}: raise its limits of threads and open files")
        }
        StartError::Keys(_) | StartError::Broker(_) => error.to_string(),
    }
}

fn bind(address: SocketAddr, error: &io::Error) -> String {
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
pub(super) fn certificate(bad: &BadCertificate) -> String {
    let remedy = match bad {
        BadCertificate::File { .. } => {
            "server.tls.cert and server.tls.key name PEM files that this user can read: the certificate with its chain, \
             and its private key"
        }
        BadCertificate::Pair(_) => {
            "server.tls.key must be the key that server.tls.cert was made for; the certificate stands first in its file, \
             the chain after it"
        }
        BadCertificate::Io(_) => "try again",
    };
    format!("{bad}; {remedy}")
}

/// What is wrong with the login file.
pub(super) fn users(bad: &BadUsers) -> String {
    match bad {
        BadUsers::Io { path, error } if error.kind() == ErrorKind::NotFound => {
            format!("{bad}; make it with: wardcast user add NAME --file {}", path.display())
        }
        BadUsers::Io { .. } => format!("{bad}; the hub must be able to read it"),
        BadUsers::Name(_, _) => {
            // One of them is a question.
            let problem = bad.to_string();
            let end = if problem.ends_with('?') { "" } else { "." };
            format!("{problem}{end} Change the file by hand, or with: wardcast user remove NAME")
        }
        _ => bad.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_had_is_told_with_what_to_do() {
        let told = |address: &str, kind: ErrorKind| bind(address.parse().unwrap(), &kind.into());
        assert!(told("127.0.0.1:8000", ErrorKind::AddrInUse).contains("--set server.bind=127.0.0.1:8001"));
        assert!(told("[::1]:65535", ErrorKind::AddrInUse).contains("--set server.bind=[::1]:8000"));
        let denied = told("127.0.0.1:80", ErrorKind::PermissionDenied);
        assert!(denied.contains("--set server.bind=127.0.0.1:8000") && denied.contains("setcap"), "{denied}");
        assert!(told("192.0.2.1:8000", ErrorKind::AddrNotAvailable).contains("ip address"));
        assert!(told("127.0.0.1:1", ErrorKind::Other).contains("cannot listen on 127.0.0.1:1"));
    }
}
