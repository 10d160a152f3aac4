//! The upgrade service: a second instance of the application, for requests that ask to upgrade. Routing, extractors and
//! the handshake stay ordinary actix-web. A response with an [`Admission`] hands the socket to a session; any other response
//! is written unchanged and closes the connection.

use std::{rc::Rc, time::Duration};

use actix_codec::{AsyncRead, AsyncWrite, Framed, FramedParts};
use actix_http::{
    ConnectionType, Request,
    body::{BodySize, BoxBody, to_bytes_limited},
    h1,
};
use actix_service::Service;
use actix_web::{HttpMessage, HttpResponse, dev::ServiceResponse, error::Error};
use bytes::BytesMut;
use futures_util::SinkExt;
use tokio::time::timeout;

use super::handover::encode_head;
use crate::auth::Admission;

/// Marks a request that came through the upgrade service, where a 101 starts a session. A chunked request with an
/// `Upgrade` header has no marker: actix-http passes it to the plain application.
#[derive(Clone, Copy)]
pub struct UpgradeMarker;

/// Time within which the peer must read the response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum body of a refusal; a longer one is sent empty.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// Calls `app` with a request that asks to upgrade. If the response carries an [`Admission`], passes it to
/// `start_session` with the socket and the bytes that were read after the handshake.
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
    let mut response = match app.call(request).await {
        Ok(response) => HttpResponse::from(response),
        Err(error) => error.error_response(),
    };
    let mut admission = response.extensions_mut().remove::<Admission>();
    if let Some(admission) = &mut admission
        && !admission.format.is_websocket()
    {
        admission.head = encode_head(&response, &admission.head);
    }
    let (head, body) = actix_http::Response::from(response).into_parts();
    match admission {
        // The request for a stream asked to upgrade, too, as some clients do that speak HTTP/2.
        Some(admission) if !admission.format.is_websocket() => {
            start_session(framed.into_parts().io, BytesMut::new(), admission);
        }
        Some(admission) => {
            let sent = timeout(WRITE_TIMEOUT, framed.send((head, BodySize::None).into())).await;
            if let Ok(Ok(())) = sent {
                let FramedParts { io, read_buf, .. } = framed.into_parts();
                start_session(io, read_buf, admission);
            }
        }
        None => {
            // The connection closes whether the peer has read the response or not.
            let _ = timeout(WRITE_TIMEOUT, write_refusal(&mut framed, head, body)).await;
        }
    }
}

/// Writes an ordinary response and closes the connection: the peer may already have sent WebSocket frames after its
/// request.
async fn write_refusal<T: AsyncRead + AsyncWrite + Unpin>(
    framed: &mut Framed<T, h1::Codec>,
    mut head: actix_http::Response<()>,
    body: BoxBody,
) -> Result<(), std::io::Error> {
    // Otherwise the codec would write `Connection: upgrade`, as in the request.
    head.head_mut().set_connection_type(ConnectionType::Close);
    let body = to_bytes_limited(body, MAX_REFUSAL_BYTES).await.ok().and_then(Result::ok).unwrap_or_default();
    framed.send((head, BodySize::Sized(body.len() as u64)).into()).await?;
    framed.send(h1::Message::Chunk(Some(body))).await?;
    framed.send(h1::Message::Chunk(None)).await?;
    framed.close().await
}
