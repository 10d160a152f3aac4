//! The transport alone: a server that echoes every message, over ws and wss. The Autobahn suite tests it, and with it the
//! reading, writing and closing that sessions use.
//!
//!     cargo run --example echo -- --port 0 [--message-size BYTES]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for tests")]

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use actix_http::HttpService;
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt, fn_factory, fn_service, map_config};
use actix_web::{
    App, HttpRequest, HttpResponse, dev::AppConfig, error::Error, http::header::SEC_WEBSOCKET_EXTENSIONS, web,
};
use actix_web_actors::ws::Frame;
use bytes::Bytes;
use tokio::net::TcpStream;
use wardcast::{
    auth::{Admission, CommandSource, HandshakeAuth},
    clock::Clock,
    connection_limit::{ConnectionLimit, KeyedLimit},
    deflate::{self, DeflateOptions},
    http::upgrade,
    protocol::{Format, frame},
    transport::{
        AcceptedConnection, ClosePolicy, Inbound, InboundEvent, Outbox, TlsSocket, TransportLimits, Violation,
    },
};

/// Compresses everything that becomes shorter.
const COMPRESSION: DeflateOptions = DeflateOptions { min_bytes: 0, max_bytes: u32::MAX, level: 1 };

struct Echo {
    outbox: Arc<Outbox>,
    clock: Clock,
    format: Format,
}

impl Echo {
    fn send_message(&self, frame: Bytes) {
        self.send(self.format.compress(frame));
    }

    fn send(&self, frame: Bytes) {
        let now = self.clock.now();
        let _ = self.outbox.push(now, frame).and_then(|_| self.outbox.flush(&self.clock, now));
    }
}

impl Actor for Echo {
    type Context = Context<Self>;
}

impl StreamHandler<Result<InboundEvent, Violation>> for Echo {
    fn handle(&mut self, item: Result<InboundEvent, Violation>, _: &mut Self::Context) {
        match item {
            Ok(InboundEvent::Frame(Frame::Text(text))) => self.send_message(frame::encode_text(&text)),
            Ok(InboundEvent::Frame(Frame::Binary(binary))) => self.send_message(frame::encode_binary(&binary)),
            Ok(InboundEvent::Frame(Frame::Ping(payload))) => self.send(frame::encode_pong(&payload)),
            Ok(InboundEvent::Frame(Frame::Pong(_) | Frame::Continuation(_)) | InboundEvent::Drained) => {}
            Ok(InboundEvent::Frame(Frame::Close(reason))) => {
                let close = frame::encode_close(reason.map(|reason| reason.code.into()), "");
                self.outbox.close(close, ClosePolicy::SendBacklog, &self.clock);
            }
            Err(violation) => {
                let close = frame::encode_close(Some(violation.code()), &violation.to_string());
                self.outbox.close(close, ClosePolicy::SendBacklog, &self.clock);
            }
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

async fn handshake(request: HttpRequest) -> Result<HttpResponse, Error> {
    let mut response = actix_web_actors::ws::handshake(&request)?;
    let offers = request.headers().get_all(SEC_WEBSOCKET_EXTENSIONS).map(|header| header.as_bytes());
    let accepted = deflate::negotiate(offers).map_err(actix_web::error::ErrorBadRequest)?;
    let mut format = Format::default();
    if let Some(extensions) = accepted {
        response.insert_header((SEC_WEBSOCKET_EXTENSIONS, extensions));
        format = format.with_compression(COMPRESSION);
    }
    let mut response = response.finish();
    let permit = ConnectionLimit::new(usize::MAX, Default::default()).acquire().unwrap();
    let address_permit = KeyedLimit::new(0).acquire(&IpAddr::from([127, 0, 0, 1]).into()).unwrap();
    let auth = HandshakeAuth::Unauthenticated;
    let admission = Admission {
        client: uuid::Uuid::new_v4(),
        ip: [127, 0, 0, 1].into(),
        request_id: None,
        credential: None,
        auth,
        ids: Default::default(),
        format,
        connect_data: None,
        hook_headers: Default::default(),
        commands: CommandSource::WebSocket,
        head: Bytes::new(),
        has_native_pings: false,
        permit,
        address_permit,
        user_permit: None,
        unauthenticated_permits: None,
    };
    response.extensions_mut().insert(admission);
    Ok(response)
}

/// An HTTP service with the upgrade service of the server, and one route.
macro_rules! echo {
    ($socket:ty, $limits:expr) => {{
        let limits = $limits;
        let plain = App::new().default_service(web::to(handshake)).into_factory();
        HttpService::<$socket, _, _, _, _>::build()
            .upgrade(fn_factory(move || async move {
                let app = App::new().default_service(web::to(handshake)).into_factory();
                let app = Rc::new(app.new_service(AppConfig::default()).await?);
                Ok::<_, ()>(fn_service(move |(request, framed)| {
                    let app = app.clone();
                    async move {
                        upgrade::handle(app, request, framed, |socket: $socket, read, admission| {
                            let Ok(outbox) = Outbox::new(socket, &limits) else { return };
                            let format = admission.format;
                            Echo::create(|ctx| {
                                ctx.add_stream(Inbound::new(outbox.clone(), read, limits, format.is_compressed()));
                                Echo { outbox, clock: Clock::default(), format }
                            });
                        })
                        .await;
                        Ok::<(), Error>(())
                    }
                }))
            }))
            .h1(map_config(plain.map_err(|error: Error| actix_http::Response::from(error.error_response())), |()| {
                AppConfig::default()
            }))
    }};
}

fn certificate() -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap())
}

async fn accept_tls(tcp: TcpStream, config: Arc<rustls::ServerConfig>) -> Result<(TlsSocket, Option<SocketAddr>), ()> {
    let peer = tcp.peer_addr().map_err(drop)?;
    let socket = TlsSocket::accept(AcceptedConnection::new(tcp, Some(peer)), config).await.map_err(drop)?;
    Ok((socket, Some(peer)))
}

fn argument(name: &str) -> Option<usize> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map(|value| value.parse().unwrap())
}

fn main() -> std::io::Result<()> {
    let message_bytes = argument("--message-size").unwrap_or(17 << 20);
    let limits = TransportLimits {
        message_bytes,
        message_fragments: 1 << 20,
        outbox_bytes: 4 * message_bytes,
        unsent_bytes: 128 * 1024,
        unacknowledged_timeout: Duration::from_secs(30),
    };
    let port = argument("--port").unwrap_or(0) as u16;
    let (plain, tls) = (TcpListener::bind(("127.0.0.1", port))?, TcpListener::bind("127.0.0.1:0")?);
    let (ws, wss) = (plain.local_addr()?, tls.local_addr()?);
    actix_rt::System::new().block_on(async move {
        let certificate = certificate();
        let server = actix_server::Server::build()
            .workers(1)
            .listen("ws", plain, move || echo!(TcpStream, limits).tcp())?
            .listen("wss", tls, move || {
                let certificate = certificate.clone();
                let accept = fn_service(move |tcp: TcpStream| accept_tls(tcp, certificate.clone()));
                accept.and_then(echo!(TlsSocket, limits).map_err(drop))
            })?
            .run();
        println!("listening ws={ws} wss={wss}");
        server.await
    })
}
