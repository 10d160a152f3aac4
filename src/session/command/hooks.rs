//! Questions of a session to the hooks of the backend. The session waits for the answer to its command; if it ends meanwhile,
//! the answer is dropped.

use std::sync::Arc;

use futures_util::{FutureExt, future::LocalBoxFuture};
use serde_json::value::RawValue;

use super::{CommandFailure, CommandOutcome, CommandReply};
use crate::{
    auth::Claims,
    channel::Channel,
    hooks::{Hook, HookRefusal, HookRequest, HookResult, RpcAnswer, SubscribeApproval},
    protocol::{self, ErrorCode, Format},
    session::Session,
};

/// The answer of a hook: what it allows, or why the command fails.
pub(in crate::session) type HookAnswer<R> = Result<R, HookRefusal>;

/// A question to a hook. Nothing is sent before it is polled.
pub(in crate::session) type HookQuestion<R> = LocalBoxFuture<'static, HookAnswer<R>>;

impl CommandFailure {
    /// Returns how a command fails that a hook has refused.
    pub(super) fn from_hook(refusal: HookRefusal) -> Self {
        match refusal {
            HookRefusal::Error(error) => Self::Error(error),
            HookRefusal::Disconnect(disconnect) => Self::Close(disconnect),
        }
    }
}

impl Session {
    /// `rpc`: passes a method and data to the backend, and its answer to the client.
    pub(super) fn rpc(
        &self,
        id: u32,
        method: &str,
        data: Option<&RawValue>,
        claims: &Claims,
    ) -> Result<CommandOutcome, CommandFailure> {
        let hook = &self.services.hooks.rpc;
        if hook.is_none() {
            return Err(ErrorCode::NotAvailable.with_detail("rpc needs a backend").into());
        }
        let request = HookRequest { method: Some(method), data, ..self.hook_request(claims) };
        let (answer, format) = (self.ask_hook::<RpcAnswer>(hook, request), self.format);
        Ok(CommandOutcome::pending(id, async move {
            let RpcAnswer { data } = answer.await.map_err(CommandFailure::from_hook)?;
            Ok(CommandReply::Frame(format.encode_reply(id, &protocol::Reply::Rpc(data.as_ref()))))
        }))
    }

    /// Asks the hook about a subscription.
    pub(super) fn ask_subscribe_hook(
        &self,
        channel: &Channel,
        data: Option<&RawValue>,
        claims: &Claims,
    ) -> HookQuestion<SubscribeApproval> {
        let request = HookRequest { channel: Some(channel.as_str()), data, ..self.hook_request(claims) };
        self.ask_hook(&self.services.hooks.subscribe, request)
    }

    /// Returns what each hook learns of the session.
    pub(in crate::session) fn hook_request<'a>(&self, claims: &'a Claims) -> HookRequest<'a> {
        let transport = match self.format {
            Format::Json | Format::Protobuf => "websocket",
            Format::EventStream | Format::ChannelEvents => "sse",
            Format::JsonStream | Format::ProtobufStream => "http_stream",
        };
        HookRequest {
            client: self.client,
            transport,
            protocol: if self.format.is_json() { "json" } else { "protobuf" },
            encoding: "json",
            user: &claims.user,
            ..HookRequest::default()
        }
    }

    /// Asks a hook. Without an endpoint the answer is the temporary error 100.
    pub(super) fn ask_hook<R: HookResult + 'static>(
        &self,
        hook: &Option<Arc<Hook>>,
        request: HookRequest<'_>,
    ) -> HookQuestion<R> {
        let (hook, body, headers) = (hook.clone(), request.encode(), self.hook_headers.clone());
        async move {
            match hook {
                Some(hook) => hook.ask(body, headers).await,
                None => Err(HookRefusal::Error(ErrorCode::Internal.into())),
            }
        }
        .boxed_local()
    }
}
