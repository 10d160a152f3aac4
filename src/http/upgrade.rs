//! The upgrade service: a second instance of the application that sees the requests which ask to upgrade. Routing,
//! extractors and the handshake stay ordinary actix-web; a 101 that carries an [`Admission`] gives the socket away, every
//! other answer is written as it is, and the connection ends with it.

use std::{rc::Rc, time::Duration};

use actix_codec::{AsyncRead, AsyncWrite, Framed, FramedParts};
use actix_http::{
    ConnectionType, Request,
    body::{BodySize, BoxBody, to_bytes_limited},
    h1,
};
use actix_service::Service;
use actix_web::{HttpMessage, HttpResponse, ResponseError, dev::ServiceResponse, error::Error};
use bytes::BytesMut;
use futures_util::SinkExt;
use tokio::time::timeout;

use super::HttpError;
use crate::auth::Admission;

/// Marks a request that came through the upgrade service: only there a 101 has a session behind it. A chunked request with
/// an upgrade header goes to the plain application.
#[derive(Clone, Copy)]
pub struct UpgradeMarker;

/// The handshake's handlers must be done by then; the only thing that they wait for is who keeps the tickets.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(5);
/// The peer must have read its answer by then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest body of a refusal.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// Calls `app` with a request that asks to upgrade. `open` gets the socket, what was read behind the handshake, and the
/// admission, if there is one.
pub async fn handle<A, T>(
    app: Rc<A>,
    request: Request,
    mut framed: Framed<T, h1::Codec>,
    start_session: impl FnOnce(T, BytesMut, Admission),
) where
    A: Service<Request, Response = ServiceResponse<BoxBody>, Error = Error>,
    T: AsyncRead + AsyncWrite + Unpin,
{
    request.extensions_mut().insert(UpgradeMarker);
    let mut response = match timeout(HANDLER_TIMEOUT, app.call(request)).await {
        Ok(Ok(response)) => HttpResponse::from(response),
        Ok(Err(error)) => error.error_response(),
        Err(_) => HttpError::unavailable("too slow; try again soon").error_response(),
    };
    let admission = response.extensions_mut().remove::<Admission>();
    let (head, body) = actix_http::Response::from(response).into_parts();
    match admission {
        Some(admission) => {
            let answered = timeout(WRITE_TIMEOUT, framed.send((head, BodySize::None).into())).await;
            if let Ok(Ok(())) = answered {
                let FramedParts { io, read_buf, .. } = framed.into_parts();
                start_session(io, read_buf, admission);
            }
        }
        None => {
            // Whether it was read or not: nothing follows on this connection.
            let _ = timeout(WRITE_TIMEOUT, write_refusal(&mut framed, head, body)).await;
        }
    }
}

/// Writes an ordinary response and closes: what the peer sends next was meant for a WebSocket.
async fn write_refusal<T: AsyncRead + AsyncWrite + Unpin>(
    framed: &mut Framed<T, h1::Codec>,
    mut head: actix_http::Response<()>,
    body: BoxBody,
) -> Result<(), std::io::Error> {
    // The codec would write `Connection: upgrade`, as the request did.
    head.head_mut().set_connection_type(ConnectionType::Close);
    let body = to_bytes_limited(body, MAX_REFUSAL_BYTES).await.ok().and_then(Result::ok).unwrap_or_default();
    framed.send((head, BodySize::Sized(body.len() as u64)).into()).await?;
    framed.send(h1::Message::Chunk(Some(body))).await?;
    framed.send(h1::Message::Chunk(None)).await?;
    framed.close().await
}
