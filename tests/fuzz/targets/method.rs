//! All that a command says, as text: a command prints nothing of itself, since it may hold a token.

use wardcast::protocol::{ConnectRequest, HistoryRequest, Method, SubscribeRequest};

pub(super) fn said(method: &Method<'_>) -> String {
    match method {
        Method::Pong => "pong".to_owned(),
        Method::Connect(request) => connect(request),
        Method::Subscribe(request) => subscribe(request),
        Method::Unsubscribe { channel } => format!("unsubscribe {channel:?}"),
        Method::Publish { channel, data } => format!("publish {channel:?} {data:?}"),
        Method::Presence { channel } => format!("presence {channel:?}"),
        Method::PresenceStats { channel } => format!("presence_stats {channel:?}"),
        Method::History(HistoryRequest { channel, limit, since, is_reverse }) => {
            format!("history {channel:?} {limit} {since:?} {is_reverse}")
        }
        Method::Rpc { method, data } => format!("rpc {method:?} {data:?}"),
        Method::Send { data } => format!("send {data:?}"),
        Method::Refresh { token } => format!("refresh {token:?}"),
        Method::SubRefresh { channel, token } => format!("sub_refresh {channel:?} {token:?}"),
        Method::Ping => "ping".to_owned(),
    }
}

fn connect(ConnectRequest { token, data, subs, name, version, headers }: &ConnectRequest<'_>) -> String {
    format!("connect {token:?} {data:?} {subs:?} {name:?} {version:?} {headers:?}")
}

fn subscribe(request: &SubscribeRequest<'_>) -> String {
    let SubscribeRequest { channel, token, recovery, data, delta, flag, .. } = request;
    let wishes = [request.is_positioned, request.is_recoverable, request.wants_join_leave];
    let filter = request.filter.map(|filter| filter.read());
    format!("subscribe {channel:?} {token:?} {recovery:?} {data:?} {wishes:?} {delta:?} {flag} {filter:?}")
}
