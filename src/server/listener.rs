//! Serves the connections of a listener. A connection passes through the PROXY header and TLS, where they are configured, to
//! HTTP, and after a handshake to a session. `ws` and `wss` use the same services over different byte streams. Each address of
//! a listener has a service of its own in each worker.

use std::{
    cell::{OnceCell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Weak},
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

use super::{
    Components,
    client_certificates::{self, ShownCertificates},
    proxy,
    tls::TlsAcceptor,
};
use crate::{
    api,
    auth::Admission,
    http::{
        self, HttpContext,
        connection::{ClientCertificateCheck, ClientCertificateName, KEEP_ALIVE, REQUEST_HEAD_TIMEOUT},
        handover::HttpSocket,
    },
    session,
    transport::{AcceptedConnection, ClientStream, Socket, TlsSocket},
};

/// The service for `ws` and `http`.
pub(super) fn plain_service<C: Connection>(components: &Components) -> impl ConnectionServiceFactory<C> + use<C> {
    over_plain(components, connection_service::<AcceptedConnection>(components))
}

/// The service for `wss` and `https`.
pub(super) fn tls_service<C: Connection>(
    components: &Components,
    tls: rustls::ServerConfig,
) -> impl ConnectionServiceFactory<C> + use<C> {
    over_tls(components, tls, connection_service::<TlsSocket>(components))
}

/// Creates the service of the connections that the kernel has queued when the listener closes. It has no hub, so it
/// serves everything but handshakes, which are refused by then.
pub(super) async fn queued_service(
    components: &Components,
    tls: Option<rustls::ServerConfig>,
) -> Result<BoxService<ClientStream, (), ()>, ()> {
    Ok(match tls {
        None => boxed::service(plain_http_service(components).new_service(()).await?),
        Some(tls) => boxed::service(tls_http_service(components, tls).new_service(()).await?),
    })
}

/// The service for `http`, without handshakes.
pub(super) fn plain_http_service<C: Connection>(components: &Components) -> impl ConnectionServiceFactory<C> + use<C> {
    over_plain(components, http_service(components))
}

/// The service for `https`, without handshakes.
pub(super) fn tls_http_service<C: Connection>(
    components: &Components,
    tls: rustls::ServerConfig,
) -> impl ConnectionServiceFactory<C> + use<C> {
    over_tls(components, tls, http_service(components))
}

/// A connection as the acceptor hands it over: of TCP, of a Unix socket, or either.
pub(super) trait Connection: Into<ClientStream> + 'static {}
impl<C: Into<ClientStream> + 'static> Connection for C {}

/// Handles connections.
pub(super) trait ConnectionServiceFactory<C>:
    ServiceFactory<C, Config = (), Response = (), Error = (), InitError = ()>
{
}
impl<C, F: ServiceFactory<C, Config = (), Response = (), Error = (), InitError = ()>> ConnectionServiceFactory<C>
    for F
{
}

/// Serves HTTP without TLS.
fn over_plain<C: Connection, F, E>(components: &Components, http: F) -> impl ConnectionServiceFactory<C> + use<C, F, E>
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
            (HttpSocket::new(socket), peer)
        })
        .and_then(http.map_err(|_| ()))
}

/// Serves HTTP over TLS.
fn over_tls<C: Connection, F, E>(
    components: &Components,
    tls: rustls::ServerConfig,
    http: F,
) -> impl ConnectionServiceFactory<C> + use<C, F, E>
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
            (HttpSocket::new(socket), peer)
        })
        .and_then(http.map_err(|_| ()))
}

/// Finds the client address of a connection: from its socket, or on a listener for clients from the PROXY header of a trusted
/// proxy.
fn accept<C: Connection>(
    components: &Components,
) -> impl ServiceFactory<C, Config = (), Response = AcceptedConnection, Error = (), InitError = ()> + use<C> {
    let HttpContext { config, metrics, .. } = &**components.http;
    let (config, metrics, may_have_header) = (config.snapshot(), metrics.clone(), components.role.serves_clients());
    fn_service(move |stream: C| {
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
    let (prefix, outer_context) = (context.config.current().server.path_prefix.clone(), context.clone());
    let routes = move |service: &mut web::ServiceConfig| {
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
    };
    App::new()
        .wrap(from_fn(http::error::add_request_id))
        .wrap(from_fn(http::unread_body::keep_until_answered))
        .wrap(from_fn(http::connection::limit_requests))
        .app_data(components.http.clone())
        .app_data(components.api.clone())
        .app_data(role)
        .configure(move |service| {
            if prefix.is_empty() {
                return routes(service);
            }
            http::path_prefix::routes_beside(&outer_context, role, service);
            service.service(web::scope(&prefix).configure(routes));
        })
        .default_service(web::to(http::error::not_found))
}

type UpgradeRequest<T> = (actix_http::Request, actix_codec::Framed<HttpSocket<T>, actix_http::h1::Codec>);

thread_local! {
    /// The parts that the sessions of this worker share, as long as a service uses it: the worker has one hub for all addresses.
    static WORKER_SERVICES: RefCell<Weak<session::Services>> = const { RefCell::new(Weak::new()) };
}

/// Returns what the sessions of the calling worker share. Starts its hub, unless a service of another address has.
fn worker_services(components: &Components) -> Arc<session::Services> {
    WORKER_SERVICES.with_borrow_mut(|shared| {
        shared.upgrade().unwrap_or_else(|| {
            let services = Arc::new(components.start_worker());
            *shared = Arc::downgrade(&services);
            services
        })
    })
}

/// Starts sessions on the sockets of one address and one worker.
struct SessionStarter(OnceCell<Arc<session::Services>>);

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
                starter.0.get_or_init(|| worker_services(&components));
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
    let clients = components.client_certificates.clone();
    let setup = Rc::new(http::connection::ConnectionSetup::default());
    let end = setup.clone();
    let starter = starter.clone();
    let start: Rc<dyn Fn(T, BytesMut, Admission)> =
        Rc::new(move |socket, read, admission| starter.start(socket, read, admission));
    HttpServiceBuilder::default()
        .client_request_timeout(REQUEST_HEAD_TIMEOUT)
        .keep_alive(KEEP_ALIVE)
        .client_disconnect_timeout(Duration::ZERO)
        // Above it actix-http buffers neither the body of the next response nor carries out the next pipelined request. So a
        // connection holds these, two responses, and the 16 requests that actix-http reads ahead.
        .h1_write_buffer_size(components.http.config.current().limits.http_unread_bytes)
        .on_connect_ext(move |socket: &HttpSocket<T>, data| {
            data.insert(socket.handover(start.clone()));
            socket.with_socket(|socket| {
                let chain = socket.client_certificates();
                if let (Some(certificate), Some(clients)) = (chain.first(), &clients) {
                    data.insert(ClientCertificateName(client_certificates::name_of(certificate)));
                    let shown = ShownCertificates::new(clients.clone(), chain.to_vec(), at_connect.clock.clone());
                    data.insert(ClientCertificateCheck(Box::new(move || shown.are_accepted())));
                }
                setup.prepare(socket.kernel_socket(), at_connect.stop.watch(), data);
            });
        })
        .graceful_shutdown_signal(move || end.end_signal(at_end.stop.watch()))
}
