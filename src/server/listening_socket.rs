//! The listening sockets of a hub: those that it opens, on addresses and as files, and those that the service manager passes.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::passed_sockets::PassedSockets;
use crate::{
    config::{BindAddress, BindAddresses, Environment, ServerConfig, UNIX},
    transport::ClientStream,
};

/// Connections that the kernel queues until they are accepted.
pub(super) const BACKLOG: i32 = 4096;

/// An address that a hub listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// Of TCP, with the actual port if the configuration has port 0.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Returns the address of TCP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Why a hub cannot listen on an address that the configuration names. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenProblem {
    /// The host name is unknown, or the resolver does not answer.
    #[error("the host name cannot be resolved: {0}; name an IP address")]
    Resolve(io::Error),
    /// A host name has no address that this machine has.
    #[error("the host name has no address of this machine; name an IP address")]
    NoAddress,
    /// Another process listens on the Unix socket.
    #[error("another process listens there; stop it, or choose another path")]
    SocketInUse,
    /// The path of a Unix socket is a file of another kind.
    #[error("the file exists and is not a socket; remove it, or choose another path")]
    NotASocket,
    /// No socket was passed.
    #[error(
        "the service manager has passed no such socket (LISTEN_FDS); start the hub by its socket unit, and let FileDescriptorName \
         be the name after the colon"
    )]
    NotPassed,
    /// Other machines can reach a socket that was passed, or an address of a host name.
    #[error(
        "other machines can reach {0}, so tokens would be sent unencrypted; set the certificate of this listener, or \
         server.behind_tls = true if a load balancer in front terminates TLS"
    )]
    Unencrypted(SocketAddr),
    /// The same in development.
    #[error("development listens on loopback only, not on {0}; for other machines set WARDCAST_ENV=production")]
    Development(SocketAddr),
}

/// An address that a hub cannot listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The error of the operating system.
    #[error("cannot listen on {address} ({key}): {error}")]
    Bind {
        /// `server.bind` or `server.internal_bind`.
        key: &'static str,
        /// The address.
        address: ListenAddress,
        /// The error.
        error: io::Error,
    },
    /// Any other problem.
    #[error("cannot listen on {address} ({key}): {problem}")]
    Address {
        /// `server.bind` or `server.internal_bind`.
        key: &'static str,
        /// The address, as the configuration names it.
        address: BindAddress,
        /// The problem.
        problem: ListenProblem,
    },
}

#[derive(Debug)]
pub(super) enum KernelListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl KernelListener {
    pub(super) fn as_socket(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener),
            Self::Unix(listener) => SockRef::from(listener),
        }
    }
}

/// The owner of a socket, which closes it.
#[derive(Debug)]
enum SocketOwner {
    Hub,
    /// The hub, which removes its file, too.
    HubWithFile(SocketFile),
    /// The service manager, which passes it to the next process: that accepts the connections which wait in its queue.
    ServiceManager,
}

/// A socket that listens.
#[derive(Debug)]
pub(super) struct ListeningSocket {
    pub(super) address: ListenAddress,
    listener: KernelListener,
    owner: SocketOwner,
}

/// The file of a Unix socket, as this process has made it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: FileId,
}

/// Device and inode.
type FileId = (u64, u64);

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: file_id(path)? })
    }

    /// Removes the file, unless another process has replaced it.
    fn remove(&self) {
        let is_own = file_id(&self.path).is_ok_and(|id| id == self.id);
        if is_own && let Err(error) = fs::remove_file(&self.path) {
            log::warn!("cannot remove the socket file path={:?} error={:?}", self.path, error.to_string());
        }
    }
}

/// The options that decide how the addresses of a listener are opened.
pub(super) struct ListenRules<'a> {
    /// `server.bind` or `server.internal_bind`.
    pub(super) key: &'static str,
    /// Whether the listener has a certificate.
    pub(super) has_tls: bool,
    pub(super) server: &'a ServerConfig,
    pub(super) environment: Environment,
}

impl ListenRules<'_> {
    /// Opens the listening sockets of a listener. Takes the passed ones that its addresses name.
    pub(super) async fn listen(
        &self,
        addresses: &BindAddresses,
        passed: &mut PassedSockets,
    ) -> Result<Vec<ListeningSocket>, ListenError> {
        let mut sockets = Vec::new();
        for address in addresses.iter() {
            let opened = self.listen_on(address, addresses, passed).await?;
            for socket in &opened {
                let exposed = socket.address.tcp().filter(|address| !address.ip().to_canonical().is_loopback());
                exposed
                    .map_or(Ok(()), |exposed| self.check_exposed(exposed))
                    .map_err(|problem| self.problem(address, problem))?;
            }
            sockets.extend(opened);
        }
        Ok(sockets)
    }

    async fn listen_on(
        &self,
        address: &BindAddress,
        addresses: &BindAddresses,
        passed: &mut PassedSockets,
    ) -> Result<Vec<ListeningSocket>, ListenError> {
        match address {
            BindAddress::Ip(ip) => Ok(vec![self.bind_error(*ip, open_tcp(*ip, has_other_wildcard(*ip, addresses)))?]),
            BindAddress::Host { name, port } => {
                let resolved = lookup_host((name.as_str(), *port)).await;
                let resolved = resolved.map_err(|error| self.problem(address, ListenProblem::Resolve(error)))?;
                self.open_host(address, resolved)
            }
            BindAddress::Unix(path) => match open_unix(path, self.server.unix_mode) {
                Ok(socket) => Ok(vec![socket]),
                Err(UnixError::Problem(problem)) => Err(self.problem(address, problem)),
                Err(UnixError::Io(error)) => {
                    Err(ListenError::Bind { key: self.key, address: ListenAddress::Unix(path.clone()), error })
                }
            },
            BindAddress::Systemd(name) => match passed.take(name.as_deref()) {
                sockets if sockets.is_empty() => Err(self.problem(address, ListenProblem::NotPassed)),
                sockets => Ok(sockets.into_iter().map(ListeningSocket::passed).collect()),
            },
        }
    }

    /// Listens on all addresses of a host name that this machine has: a machine without IPv6 may know `::1` as `localhost`.
    fn open_host(
        &self,
        host: &BindAddress,
        resolved: impl Iterator<Item = SocketAddr>,
    ) -> Result<Vec<ListeningSocket>, ListenError> {
        let mut sockets: Vec<ListeningSocket> = Vec::new();
        let mut seen = Vec::new();
        for address in resolved {
            if seen.contains(&address) {
                continue;
            }
            seen.push(address);
            match open_tcp(address, false) {
                Ok(socket) => sockets.push(socket),
                Err(error) if is_unavailable(&error) => {
                    log::warn!(
                        "address of a host name not listened on host={host} address={address} error={:?}",
                        error.to_string()
                    );
                }
                Err(error) => return self.bind_error(address, Err(error)).map(|socket| vec![socket]),
            }
        }
        if sockets.is_empty() { Err(self.problem(host, ListenProblem::NoAddress)) } else { Ok(sockets) }
    }

    /// Checks an address that only the start knows. Those that the configuration names are checked with it.
    fn check_exposed(&self, address: SocketAddr) -> Result<(), ListenProblem> {
        if !self.has_tls && !self.server.behind_tls {
            return Err(ListenProblem::Unencrypted(address));
        }
        if self.environment == Environment::Development { Err(ListenProblem::Development(address)) } else { Ok(()) }
    }

    fn bind_error(
        &self,
        address: SocketAddr,
        opened: io::Result<ListeningSocket>,
    ) -> Result<ListeningSocket, ListenError> {
        opened.map_err(|error| ListenError::Bind { key: self.key, address: ListenAddress::Tcp(address), error })
    }

    fn problem(&self, address: &BindAddress, problem: ListenProblem) -> ListenError {
        ListenError::Address { key: self.key, address: address.clone(), problem }
    }
}

/// Returns whether an error says that the machine does not have an address, or not its protocol.
fn is_unavailable(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Returns whether the list of an IPv6 wildcard has the one of IPv4, too: by default the first is for both.
fn has_other_wildcard(address: SocketAddr, addresses: &BindAddresses) -> bool {
    let is_other = |other: &BindAddress| matches!(other, BindAddress::Ip(other) if other.port() == address.port() && other.is_ipv4() && other.ip().is_unspecified());
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && addresses.iter().any(is_other)
}

fn open_tcp(address: SocketAddr, only_v6: bool) -> io::Result<ListeningSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if only_v6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from(socket);
    let address = ListenAddress::Tcp(listener.local_addr()?);
    Ok(ListeningSocket { address, listener: KernelListener::Tcp(listener), owner: SocketOwner::Hub })
}

enum UnixError {
    Io(io::Error),
    Problem(ListenProblem),
}

impl From<io::Error> for UnixError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Listens on a Unix socket. Until it has its mode, the kernel refuses connections.
fn open_unix(path: &Path, mode: u32) -> Result<ListeningSocket, UnixError> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path, &address)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let file = SocketFile::of(path)?;
    let listen = || {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)
    };
    listen()?;
    let (address, listener) = (ListenAddress::Unix(path.to_owned()), KernelListener::Unix(UnixListener::from(socket)));
    Ok(ListeningSocket { address, listener, owner: SocketOwner::HubWithFile(file) })
}

/// Removes the file of a socket on which no process listens any more.
fn remove_stale(path: &Path, address: &SockAddr) -> Result<(), UnixError> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(UnixError::Problem(ListenProblem::NotASocket));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener whose queue is full must not hold up the start.
    probe.set_nonblocking(true)?;
    match probe.connect(address).map_err(|error| error.kind()) {
        Err(ErrorKind::ConnectionRefused) => Ok(fs::remove_file(path)?),
        Err(ErrorKind::NotFound) => Ok(()),
        Err(ErrorKind::PermissionDenied) => Err(UnixError::Io(ErrorKind::PermissionDenied.into())),
        _ => Err(UnixError::Problem(ListenProblem::SocketInUse)),
    }
}

impl ListeningSocket {
    fn passed((address, listener): (ListenAddress, KernelListener)) -> Self {
        Self { address, listener, owner: SocketOwner::ServiceManager }
    }

    /// Returns whether the socket outlives the hub.
    pub(super) fn is_passed(&self) -> bool {
        matches!(self.owner, SocketOwner::ServiceManager)
    }

    /// Returns a second handle of the socket, for the acceptor.
    pub(super) fn for_acceptor(&self) -> io::Result<KernelListener> {
        match &self.listener {
            KernelListener::Tcp(listener) => listener.try_clone().map(KernelListener::Tcp),
            KernelListener::Unix(listener) => listener.try_clone().map(KernelListener::Unix),
        }
    }

    /// Accepts a connection that waits in the kernel's queue.
    pub(super) fn accept_queued(&self) -> Option<ClientStream> {
        match &self.listener {
            KernelListener::Tcp(listener) => {
                let (stream, _) = listener.accept().ok()?;
                stream.set_nonblocking(true).ok()?;
                TcpStream::from_std(stream).ok().map(ClientStream::from)
            }
            KernelListener::Unix(listener) => {
                let (stream, _) = listener.accept().ok()?;
                stream.set_nonblocking(true).ok()?;
                UnixStream::from_std(stream).ok().map(ClientStream::from)
            }
        }
    }

    /// Lets the kernel refuse new connections, and removes the file of the socket. Leaves a passed socket as it is.
    pub(super) fn close(&self) {
        if self.is_passed() {
            return;
        }
        // Fails only if the socket is not listening. Closing it is not enough: the acceptor has it, too.
        let _ = self.listener.as_socket().shutdown(Shutdown::Read);
        if let SocketOwner::HubWithFile(file) = &self.owner {
            file.remove();
        }
    }
}

/// For a start that fails afterwards.
impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}
