//! A hub as textbooks write it: each session is a `WebsocketContext`, and a publication is a `do_send` to each session. It
//! exists to be measured beside Wardcast (docs/architecture.md), and supports only what `wardcast-bench` needs.
//!
//!     cargo run --release --example stock     # 127.0.0.1:8100
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program to measure")]

use std::sync::{Arc, Mutex};

use actix::prelude::*;
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, web};
use actix_web_actors::ws;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Subscribers = Arc<Mutex<Vec<Addr<Session>>>>;

struct Session(Subscribers);

#[derive(Message)]
#[rtype(result = "()")]
struct Push(Arc<str>);

impl Actor for Session {
    type Context = ws::WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.text(r#"{"push":{"connect":{"client":"stock"}}}"#);
    }
}

impl Handler<Push> for Session {
    type Result = ();

    fn handle(&mut self, push: Push, ctx: &mut Self::Context) {
        ctx.text(push.0.to_string());
    }
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for Session {
    fn handle(&mut self, message: Result<ws::Message, ws::ProtocolError>, ctx: &mut Self::Context) {
        match message {
            Ok(ws::Message::Text(_)) => {
                self.0.lock().unwrap().push(ctx.address());
                ctx.text(r#"{"id":1,"subscribe":{}}"#);
            }
            Ok(ws::Message::Ping(payload)) => ctx.pong(&payload),
            Ok(ws::Message::Close(_)) | Err(_) => ctx.stop(),
            Ok(_) => {}
        }
    }
}

async fn socket(
    request: HttpRequest,
    stream: web::Payload,
    all: web::Data<Subscribers>,
) -> Result<HttpResponse, Error> {
    ws::WsResponseBuilder::new(Session(all.get_ref().clone()), &request, stream).start()
}

async fn publish(body: web::Json<serde_json::Value>, all: web::Data<Subscribers>) -> HttpResponse {
    let push: Arc<str> = format!(r#"{{"push":{{"channel":"bench","pub":{{"data":{}}}}}}}"#, body["data"]).into();
    all.lock().unwrap().iter().for_each(|session| session.do_send(Push(push.clone())));
    HttpResponse::Ok().body(r#"{"result":{}}"#)
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let all: Subscribers = Arc::default();
    HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(all.clone()))
            .app_data(web::JsonConfig::default().content_type_required(false))
            .route("/connection/websocket", web::get().to(socket))
            .route("/api/publish", web::post().to(publish))
    })
    .workers(2)
    .bind("127.0.0.1:8100")?
    .run()
    .await
}
