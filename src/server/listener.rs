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

use super::{Parts, StartError, proxy};
use crate::{
    api, http, session,
    transport::{Accepted, Socket},
};

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 4096;
/// A request's head, and a proxy's header before it, must be there by then; a slow one holds a connection that is nobody.
pub(super) const HEAD: Duration = Duration::from_secs(5);

/// Opens the socket.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let open = || -> io::Result<TcpListener> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    open().map_err(|error| StartError::Bind { address, error })
}

/// `ws` and `http`.
pub(super) fn plain(
    parts: &Parts,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()> + use<> {
    accept(parts)
        .map(|socket: Accepted| {
            let peer = socket.peer();
            (socket, Some(peer))
        })
        .and_then(service::<Accepted>(parts).map_err(|_| ()))
}

/// `wss` and `https`.
pub(super) fn secure(
    parts: &Parts,
    tls: rustls::ServerConfig,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()> + use<> {
    accept(parts)
        .and_then(Acceptor::new(tls).map_err(|_| ()))
        .map(|socket: TlsStream<Accepted>| {
            let peer = socket.get_ref().0.peer();
            (socket, Some(peer))
        })
        .and_then(service::<TlsStream<Accepted>>(parts).map_err(|_| ()))
}

/// Whose a connection is, by its socket or by the header of a proxy that we trust.
fn accept(
    parts: &Parts,
) -> impl ServiceFactory<TcpStream, Config = (), Response = Accepted, Error = (), InitError = ()> + use<> {
    let (config, metrics) = (parts.config.clone(), parts.metrics.clone());
    fn_service(move |stream: TcpStream| {
        let (config, metrics) = (config.clone(), metrics.clone());
        async move { proxy::accept(stream, &config.server, &metrics).await.ok_or(()) }
    })
}

/// A byte stream for HTTP and for a session.
trait Stream: Socket + actix_rt::net::ActixStream {}
impl<T: Socket + actix_rt::net::ActixStream> Stream for T {}

/// The application; each worker has two of it, one for requests that ask to upgrade.
fn app(
    parts: &Parts,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>
    + use<>,
> {
    let (config, shared) = (parts.config.clone(), parts.http.clone());
    let page = parts.page.clone();
    App::new()
        .wrap(from_fn(http::unread::end))
        .wrap_fn(|request, service| {
            let number = http::connection::number(&request);
            let answer = service.call(request);
            async move {
                let is_last = http::connection::admit(number).await;
                let mut response = answer.await?;
                if is_last {
                    http::connection::end(&mut response);
                }
                Ok(response)
            }
        })
        .app_data(parts.http.clone())
        .app_data(parts.api.clone())
        .configure(move |service| {
            // First: at `/` it takes what asks for no upgrade, and leaves the rest.
            if let Some(page) = &page {
                page.routes(service);
            }
            http::routes(&shared, service);
            api::routes(&config, service);
            let v1 = web::scope("/v1").configure(|service| api::v1_routes(&config, service));
            service.service(http::cors::open(&shared.pages, v1));
        })
        .default_service(web::to(http::failure::not_found))
}

type Upgrade<T> = (actix_http::Request, actix_codec::Framed<T, actix_http::h1::Codec>);

/// One connection's way from its first byte: HTTP/1.1 by the plain application, or up to the session.
#[expect(clippy::type_complexity, reason = "each part is a factory that only actix can name")]
fn service<T: Stream>(
    parts: &Parts,
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
    impl ServiceFactory<Upgrade<T>, Config = (), Response = (), Error = Error, InitError = ()> + use<T>,
> {
    let plain = app(parts).into_factory().map_err(|error: Error| actix_http::Response::from(error.error_response()));
    let parts = parts.clone();
    HttpService::<T, _, _, _, _>::build()
        .client_request_timeout(HEAD)
        .client_disconnect_timeout(Duration::ZERO)
        .on_connect_ext(|socket: &T, data| http::connection::begin(socket.tcp(), data))
        .upgrade(fn_factory(move || {
            let parts = parts.clone();
            async move {
                let app = Rc::new(app(&parts).into_factory().new_service(AppConfig::default()).await?);
                let services = Rc::new(parts.services());
                Ok::<_, ()>(fn_service(move |(request, framed): Upgrade<T>| {
                    let (app, services) = (app.clone(), services.clone());
                    async move {
                        http::upgrade::serve(app, request, framed, |socket, read, admission| {
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
