//! The listener: from a TCP connection, through a proxy's header and TLS where they are spoken, to HTTP and up to the session.
//! `ws` and `wss` are the same services over another byte stream.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    time::Duration,
};

use actix_http::HttpService;
use actix_service::{
    IntoServiceFactory, Service as _, ServiceFactory, ServiceFactoryExt, fn_factory, fn_service, map_config,
};
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_web::{
    App, Error,
    body::BoxBody,
    dev::{AppConfig, ServiceRequest, ServiceResponse},
    middleware::from_fn,
    web,
};
use tokio::net::TcpStream;

use super::{Components, ServerStartError, proxy};
use crate::{
    api, http, session,
    transport::{AcceptedConnection, Socket},
};

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 4096;
/// A request's head, and a proxy's header before it, must be there by then; a slow one holds a connection that is nobody.
pub(super) const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the socket.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, ServerStartError> {
    let open = || -> io::Result<TcpListener> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    open().map_err(|error| ServerStartError::Bind { address, error })
}

/// `ws` and `http`.
pub(super) fn plain_service(
    components: &Components,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()> + use<> {
    accept(components)
        .map(|socket: AcceptedConnection| {
            let peer = socket.peer();
            (socket, Some(peer))
        })
        .and_then(connection_service::<AcceptedConnection>(components).map_err(|_| ()))
}

/// `wss` and `https`.
pub(super) fn tls_service(
    components: &Components,
    tls: rustls::ServerConfig,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()> + use<> {
    accept(components)
        .and_then(Acceptor::new(tls).map_err(|_| ()))
        .map(|socket: TlsStream<AcceptedConnection>| {
            let peer = socket.get_ref().0.peer();
            (socket, Some(peer))
        })
        .and_then(connection_service::<TlsStream<AcceptedConnection>>(components).map_err(|_| ()))
}

/// Whose a connection is, by its socket or by the header of a proxy that we trust.
fn accept(
    components: &Components,
) -> impl ServiceFactory<TcpStream, Config = (), Response = AcceptedConnection, Error = (), InitError = ()> + use<> {
    let (config, metrics) = (components.config.clone(), components.metrics.clone());
    fn_service(move |stream: TcpStream| {
        let (config, metrics) = (config.clone(), metrics.clone());
        async move { proxy::accept(stream, &config.server, &metrics).await.ok_or(()) }
    })
}

/// A byte stream for HTTP and for a session.
trait ByteStream: Socket + actix_rt::net::ActixStream {}
impl<T: Socket + actix_rt::net::ActixStream> ByteStream for T {}

/// The application; each worker has two of it, one for requests that ask to upgrade.
fn build_app(
    components: &Components,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>
    + use<>,
> {
    let (config, http_context) = (components.config.clone(), components.http_context.clone());
    let page = components.page.clone();
    App::new()
        .wrap(from_fn(http::unread_body::keep_until_answered))
        .wrap_fn(|request, service| {
            let number = http::connection::count_request(&request);
            let answer = service.call(request);
            async move {
                let is_last = http::connection::delay_excess_request(number).await;
                let mut response = answer.await?;
                if is_last {
                    http::connection::close_after_response(&mut response);
                }
                Ok(response)
            }
        })
        .app_data(components.http_context.clone())
        .app_data(components.api_context.clone())
        .configure(move |service| {
            // First: at `/` it takes what asks for no upgrade, and leaves the rest.
            if let Some(page) = &page {
                page.routes(service);
            }
            http::routes(&http_context, service);
            api::routes(&config, service);
            let v1 = web::scope("/v1").configure(|service| api::v1_routes(&config, service));
            service.service(http::cors::wrap(&http_context.origin_policy, v1));
        })
        .default_service(web::to(http::error::not_found))
}

type UpgradeRequest<T> = (actix_http::Request, actix_codec::Framed<T, actix_http::h1::Codec>);

/// One connection's way from its first byte: HTTP/1.1 by the plain application, or up to the session.
#[expect(clippy::type_complexity, reason = "each part is a factory that only actix can name")]
fn connection_service<T: ByteStream>(
    components: &Components,
) -> actix_http::h1::H1Service<
    T,
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
    let plain =
        build_app(components).into_factory().map_err(|error: Error| actix_http::Response::from(error.error_response()));
    let components = components.clone();
    HttpService::<T, _, _, _, _>::build()
        .client_request_timeout(REQUEST_HEAD_TIMEOUT)
        .client_disconnect_timeout(Duration::ZERO)
        .on_connect_ext(|socket: &T, data| http::connection::prepare(socket.tcp(), data))
        .upgrade(fn_factory(move || {
            let components = components.clone();
            async move {
                let app = Rc::new(build_app(&components).into_factory().new_service(AppConfig::default()).await?);
                let services = Rc::new(components.start_worker());
                Ok::<_, ()>(fn_service(move |(request, framed): UpgradeRequest<T>| {
                    let (app, services) = (app.clone(), services.clone());
                    async move {
                        http::upgrade::handle(app, request, framed, |socket, read, admission| {
                            session::start(socket, read, admission, services);
                        })
                        .await;
                        Ok::<(), Error>(())
                    }
                }))
            }
        }))
        .h1(map_config(plain, move |()| AppConfig::default()))
}
