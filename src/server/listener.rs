//! What a listener serves. A TCP connection passes through the PROXY header and TLS, where they are configured, to HTTP, and
//! after a handshake to a session. `ws` and `wss` use the same services over different byte streams.

use std::{
    cell::OnceCell,
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    time::Duration,
};

use actix_http::HttpServiceBuilder;
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, apply_fn_factory,
    boxed::{self, BoxService},
    fn_factory, fn_service, map_config,
};
use actix_web::{
    App, Error,
    body::BoxBody,
    dev::{AppConfig, ServiceRequest, ServiceResponse},
    middleware::from_fn,
    web,
};
use bytes::BytesMut;
use tokio::net::TcpStream;

use super::{Components, ServerStartError, client_certificates, proxy, tls::TlsAcceptor};
use crate::{
    api,
    auth::Admission,
    http::{self, HttpContext, connection::ClientCertificateName, handover::HttpSocket},
    session,
    transport::{AcceptedConnection, Socket, TlsSocket},
};

/// Connections that the kernel queues until they are accepted.
pub(super) const BACKLOG: i32 = 4096;
/// Time within which the head of a request must arrive, and a PROXY header before it: a slow one holds an
/// unauthenticated connection.
pub(super) const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the listening socket of a configuration key.
pub(super) fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, ServerStartError> {
    let open = || -> io::Result<TcpListener> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    open().map_err(|error| ServerStartError::Bind { key, address, error })
}

/// The service for `ws` and `http`.
pub(super) fn plain_service(components: &Components) -> impl ConnectionServiceFactory + use<> {
    over_plain(components, connection_service::<AcceptedConnection>(components))
}

/// The service for `wss` and `https`.
pub(super) fn tls_service(components: &Components, tls: rustls::ServerConfig) -> impl ConnectionServiceFactory + use<> {
    over_tls(components, tls, connection_service::<TlsSocket>(components))
}

/// Creates the service of the connections that the kernel has queued when the listener closes. It has no hub, so it
/// serves everything but handshakes, which are refused by then.
pub(super) async fn queued_service(
    components: &Components,
    tls: Option<rustls::ServerConfig>,
) -> Result<BoxService<TcpStream, (), ()>, ()> {
    Ok(match tls {
        None => boxed::service(plain_http_service(components).new_service(()).await?),
        Some(tls) => boxed::service(tls_http_service(components, tls).new_service(()).await?),
    })
}

/// The service for `http`, without handshakes.
pub(super) fn plain_http_service(components: &Components) -> impl ConnectionServiceFactory + use<> {
    over_plain(components, http_service(components))
}

/// The service for `https`, without handshakes.
pub(super) fn tls_http_service(
    components: &Components,
    tls: rustls::ServerConfig,
) -> impl ConnectionServiceFactory + use<> {
    over_tls(components, tls, http_service(components))
}

/// Handles TCP connections.
pub(super) trait ConnectionServiceFactory:
    ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()>
{
}
impl<F: ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()>> ConnectionServiceFactory
    for F
{
}

/// Serves HTTP over plain TCP.
fn over_plain<F, E>(components: &Components, http: F) -> impl ConnectionServiceFactory + use<F, E>
where
    F: ServiceFactory<
            (HttpSocket<AcceptedConnection>, Option<SocketAddr>),
            Config = (),
            Response = (),
            Error = E,
            InitError = (),
        >,
{
    accept(components)
        .map(|socket: AcceptedConnection| {
            let peer = socket.peer();
            (HttpSocket::new(socket), Some(peer))
        })
        .and_then(http.map_err(|_| ()))
}

/// Serves HTTP over TLS.
fn over_tls<F, E>(
    components: &Components,
    tls: rustls::ServerConfig,
    http: F,
) -> impl ConnectionServiceFactory + use<F, E>
where
    F: ServiceFactory<
            (HttpSocket<TlsSocket>, Option<SocketAddr>),
            Config = (),
            Response = (),
            Error = E,
            InitError = (),
        >,
{
    accept(components)
        .and_then(TlsAcceptor::new(tls, components.http.metrics.clone()))
        .map(|socket: TlsSocket| {
            let peer = socket.connection().peer();
            (HttpSocket::new(socket), Some(peer))
        })
        .and_then(http.map_err(|_| ()))
}

/// Finds the client address of a connection: from its socket, or on a listener for clients from the PROXY header of a trusted
/// proxy.
fn accept(
    components: &Components,
) -> impl ServiceFactory<TcpStream, Config = (), Response = AcceptedConnection, Error = (), InitError = ()> + use<> {
    let HttpContext { config, metrics, .. } = &**components.http;
    let (config, metrics, may_have_header) = (config.snapshot(), metrics.clone(), components.role.serves_clients());
    fn_service(move |stream: TcpStream| {
        let (config, metrics) = (config.clone(), metrics.clone());
        async move { proxy::accept(stream, may_have_header, &config.server, &metrics).await.ok_or(()) }
    })
}

/// A byte stream that HTTP and sessions can use.
trait ByteStream: Socket + actix_rt::net::ActixStream {}
impl<T: Socket + actix_rt::net::ActixStream> ByteStream for T {}

/// Builds the application. Each worker has two instances: one for requests that ask to upgrade, one for all others.
fn build_app(
    components: &Components,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>
    + use<>,
> {
    let (context, page, role) = (components.http.clone(), components.page.clone(), components.role);
    let admin_page = components.admin_page.clone();
    App::new()
        .wrap(from_fn(http::unread_body::keep_until_answered))
        .wrap(from_fn(http::connection::limit_requests))
        .app_data(components.http.clone())
        .app_data(components.api.clone())
        .app_data(role)
        .configure(move |service| {
            // Before the WebSocket routes: at `/` the page handles requests without an upgrade and passes the others
            // on.
            if let Some(page) = page.as_ref().filter(|_| role.serves_clients()) {
                page.routes(service);
            }
            http::routes(&context, role, service);
            if role.serves_operators() {
                api::routes(&context.config.current(), service);
                if let Some(page) = &admin_page {
                    page.routes(service);
                }
            } else {
                for path in ["/api", "/api/{method}", "/metrics"] {
                    service.route(path, web::to(http::error::only_internal));
                }
            }
            let v1 = web::scope("/v1").configure(|service| {
                api::v1_routes(&context.config.current(), service);
                if role.serves_operators() {
                    api::operator_routes(service);
                }
                if role.serves_clients() {
                    http::v1_routes(service);
                }
            });
            service.service(http::cors::wrap(&context.origin_policy, v1));
        })
        .default_service(web::to(http::error::not_found))
}

type UpgradeRequest<T> = (actix_http::Request, actix_codec::Framed<HttpSocket<T>, actix_http::h1::Codec>);

/// Starts sessions on the sockets of one worker.
struct SessionStarter(OnceCell<Rc<session::Services>>);

impl SessionStarter {
    /// Starts a session, unless the worker has no hub: then it refuses handshakes, too.
    fn start(&self, socket: impl Socket, read: BytesMut, admission: Admission) {
        if let Some(services) = self.0.get() {
            session::start(socket, read, admission, services.clone());
        }
    }
}

/// The service of one connection: HTTP/1.1 by the plain application, or a handshake that hands the socket to a session.
#[expect(clippy::type_complexity, reason = "each part is a factory that only actix can name")]
fn connection_service<T: ByteStream>(
    components: &Components,
) -> actix_http::h1::H1Service<
    HttpSocket<T>,
    impl ServiceFactory<
        actix_http::Request,
        Config = (),
        Response = ServiceResponse<BoxBody>,
        Error = actix_http::Response<BoxBody>,
        InitError = (),
    > + use<T>,
    BoxBody,
    actix_http::h1::ExpectHandler,
    impl ServiceFactory<UpgradeRequest<T>, Config = (), Response = (), Error = Error, InitError = ()> + use<T>,
> {
    let plain = plain_app(components);
    let components = components.clone();
    let starter = Rc::new(SessionStarter(OnceCell::new()));
    http_builder(&components, &starter)
        .upgrade(fn_factory(move || {
            let (components, starter) = (components.clone(), starter.clone());
            async move {
                let app = Rc::new(build_app(&components).into_factory().new_service(AppConfig::default()).await?);
                starter.0.get_or_init(|| Rc::new(components.start_worker()));
                Ok::<_, ()>(fn_service(move |(request, framed): UpgradeRequest<T>| {
                    let (app, starter) = (app.clone(), starter.clone());
                    async move {
                        http::upgrade::handle(app, request, framed, |socket: HttpSocket<T>, read, admission| {
                            if let Some(socket) = socket.take() {
                                starter.start(socket, read, admission);
                            }
                        })
                        .await;
                        Ok::<(), Error>(())
                    }
                }))
            }
        }))
        .h1(plain)
}

/// The service of a connection without handshakes and streams.
fn http_service<T: ByteStream>(
    components: &Components,
) -> actix_http::h1::H1Service<
    HttpSocket<T>,
    impl ServiceFactory<
        actix_http::Request,
        Config = (),
        Response = ServiceResponse<BoxBody>,
        Error = actix_http::Response<BoxBody>,
        InitError = (),
    > + use<T>,
    BoxBody,
> {
    http_builder(components, &Rc::new(SessionStarter(OnceCell::new()))).h1(plain_app(components))
}

/// The application for requests that do not ask to upgrade. A response of it may become a stream.
fn plain_app(
    components: &Components,
) -> impl ServiceFactory<
    actix_http::Request,
    Config = (),
    Response = ServiceResponse<BoxBody>,
    Error = actix_http::Response<BoxBody>,
    InitError = (),
> + use<> {
    let app = apply_fn_factory(build_app(components), |request: actix_http::Request, app: &_| {
        let handover = http::handover::handover_of(&request);
        http::handover::start_stream(Service::call(app, request), handover)
    });
    let app = app.map_err(|error: Error| actix_http::Response::from(error.error_response()));
    map_config(app, |()| AppConfig::default())
}

/// The times and the stop of an HTTP connection, and how a session takes it over.
fn http_builder<T, S>(components: &Components, starter: &Rc<SessionStarter>) -> HttpServiceBuilder<HttpSocket<T>, S>
where
    T: ByteStream,
    S: ServiceFactory<actix_http::Request, Config = (), InitError = ()>,
    S::Error: Into<actix_http::Response<BoxBody>> + 'static,
    <S::Service as Service<actix_http::Request>>::Future: 'static,
{
    let (at_connect, at_end) = (components.http.clone(), components.http.clone());
    let setup = Rc::new(http::connection::ConnectionSetup::default());
    let end = setup.clone();
    let starter = starter.clone();
    let start: Rc<dyn Fn(T, BytesMut, Admission)> =
        Rc::new(move |socket, read, admission| starter.start(socket, read, admission));
    HttpServiceBuilder::default()
        .client_request_timeout(REQUEST_HEAD_TIMEOUT)
        .client_disconnect_timeout(Duration::ZERO)
        // Above it actix-http buffers neither the body of the next response nor carries out the next pipelined request. So a
        // connection holds these, two responses, and the 16 requests that actix-http reads ahead.
        .h1_write_buffer_size(components.http.config.current().limits.http_unread_bytes)
        .on_connect_ext(move |socket: &HttpSocket<T>, data| {
            data.insert(socket.handover(start.clone()));
            socket.with_socket(|socket| {
                if let Some(certificate) = socket.client_certificate() {
                    data.insert(ClientCertificateName(client_certificates::name_of(certificate)));
                }
                setup.prepare(socket.tcp(), at_connect.stop.watch(), data);
            });
        })
        .graceful_shutdown_signal(move || end.end_signal(at_end.stop.watch()))
}
