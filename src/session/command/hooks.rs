//! Calls the backend's hooks for a session. The session waits for the answer to its command; if it ends meanwhile, the answer
//! is dropped.

use std::sync::Arc;

use futures_util::{FutureExt, future::LocalBoxFuture};
use serde_json::value::RawValue;

use super::{BufferedCommand, CommandFailure, CommandOutcome, CommandReply};
use crate::{
    auth::{Claims, ConnectGrant, ask_connect_hook},
    channel::Channel,
    hooks::{ForwardedHeaders, Hook, HookRefusal, HookRequest, HookResult, RpcAnswer, SubscribeApproval},
    protocol::{self, ConnectCommand, Disconnect, ErrorCode},
    session::{Services, Session},
};

/// The answer of a hook: what it allows, or why the command fails.
pub(in crate::session) type HookAnswer<R> = Result<R, HookRefusal>;

/// What a hook has said of a command that is handled again with it.
#[derive(Clone, Debug)]
pub(in crate::session) enum Approval {
    Connect(HookAnswer<ConnectGrant>),
    Subscribe(HookAnswer<SubscribeApproval>),
}

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
            return Err(ErrorCode::NotAvailable.with_detail("rpc needs a hook (hooks.rpc.endpoint)").into());
        }
        let request = HookRequest { method: Some(method), data, ..self.hook_request_of(claims) };
        let (answer, format) = (self.ask_hook::<RpcAnswer>(hook, request), self.format);
        Ok(CommandOutcome::pending(id, async move {
            let RpcAnswer { data } = answer.await.map_err(CommandFailure::from_hook)?;
            Ok(CommandReply::Frame(format.encode_reply(id, &protocol::Reply::Rpc(data.as_ref()))))
        }))
    }

    /// `send`: passes data to the backend. It has no reply, so without a hook the session is closed.
    pub(super) fn send_to_backend(
        &mut self,
        data: Option<&RawValue>,
        claims: &Claims,
    ) -> Result<CommandOutcome, CommandFailure> {
        let hook = self.services.hooks.send.clone().ok_or(CommandFailure::Close(Disconnect::NOT_AVAILABLE))?;
        let request = HookRequest { data, ..self.hook_request_of(claims) }.encode();
        let Some(room) = self.queue_for_backend(hook, request) else { return Ok(CommandOutcome::Finished) };
        Ok(CommandOutcome::pending(0, async move {
            // An error means that the session is closed.
            let _ = room.await;
            Ok(CommandReply::Nothing)
        }))
    }

    /// Asks the hook about a subscription.
    pub(super) fn ask_subscribe_hook(
        &self,
        channel: &Channel,
        data: Option<&RawValue>,
        claims: &Claims,
    ) -> HookQuestion<SubscribeApproval> {
        let request = HookRequest { channel: Some(channel.as_str()), data, ..self.hook_request_of(claims) };
        self.ask_hook(&self.services.hooks.subscribe, request)
    }

    /// Asks the connect hook who the client is. The command is handled again with the answer.
    pub(super) fn ask_connect_hook(
        &self,
        hook: &Arc<Hook>,
        id: u32,
        command: &ConnectCommand<'_>,
        buffered: &BufferedCommand,
    ) -> CommandOutcome {
        let Services { permissions, config, clock, .. } = &*self.services;
        let (name, version, data) = (&*command.name, &*command.version, command.data);
        let channels = command.subs.keys().map(|name| &**name).collect();
        let request = HookRequest { name, version, channels, data, ..self.hook_request() };
        let (headers, buffered) = (self.hook_headers.clone(), buffered.clone());
        let answer =
            ask_connect_hook(hook.clone(), &request, headers, permissions.clone(), config.snapshot(), clock.clone());
        CommandOutcome::pending(id, async move {
            let approval = Some(Box::new(Approval::Connect(answer.await)));
            Ok(CommandReply::Postponed(vec![BufferedCommand { approval, ..buffered }]))
        })
    }

    /// Returns what each hook learns of the connection.
    pub(in crate::session) fn hook_request<'a>(&self) -> HookRequest<'a> {
        HookRequest::of_connection(self.client, self.format.transport(), self.format.name())
    }

    /// Returns what each hook but `connect` learns of the session.
    pub(in crate::session) fn hook_request_of<'a>(&self, claims: &'a Claims) -> HookRequest<'a> {
        HookRequest { user: Some(&claims.user), meta: claims.meta(), ..self.hook_request() }
    }

    /// Asks a hook. Without an endpoint the answer is the temporary error 100.
    pub(in crate::session) fn ask_hook<R: HookResult + 'static>(
        &self,
        hook: &Option<Arc<Hook>>,
        request: HookRequest<'_>,
    ) -> HookQuestion<R> {
        ask_hook(hook, request, self.hook_headers.clone())
    }
}

/// Asks a hook. Without an endpoint the answer is the temporary error 100.
pub(in crate::session) fn ask_hook<R: HookResult + 'static>(
    hook: &Option<Arc<Hook>>,
    request: HookRequest<'_>,
    headers: ForwardedHeaders,
) -> HookQuestion<R> {
    let (hook, body) = (hook.clone(), request.encode());
    async move {
        match hook {
            Some(hook) => hook.ask(body, headers).await,
            None => Err(HookRefusal::Error(ErrorCode::Internal.into())),
        }
    }
    .boxed_local()
}
