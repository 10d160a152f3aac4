//! The whole content of a command as text. Commands do not implement `Debug`, because they may hold tokens.

use wardcast::protocol::{CommandMethod, ConnectCommand, HistoryCommand, PublishData, SubscribeCommand};

pub(super) fn describe(method: &CommandMethod<'_>) -> String {
    match method {
        CommandMethod::Pong => "pong".to_owned(),
        CommandMethod::Connect(request) => connect(request),
        CommandMethod::Subscribe(request) => subscribe(request),
        CommandMethod::Unsubscribe { channel } => format!("unsubscribe {channel:?}"),
        CommandMethod::Publish { channel, data } => {
            format!("publish {channel:?} {:?}", data.and_then(PublishData::as_json))
        }
        CommandMethod::Presence { channel } => format!("presence {channel:?}"),
        CommandMethod::PresenceStats { channel } => format!("presence_stats {channel:?}"),
        CommandMethod::History(HistoryCommand { channel, limit, since, is_reverse }) => {
            format!("history {channel:?} {limit} {since:?} {is_reverse}")
        }
        CommandMethod::Rpc { method, data } => format!("rpc {method:?} {data:?}"),
        CommandMethod::Send { data } => format!("send {data:?}"),
        CommandMethod::Refresh { token } => format!("refresh {token:?}"),
        CommandMethod::SubRefresh { channel, token } => format!("sub_refresh {channel:?} {token:?}"),
        CommandMethod::OtherType => "another type".to_owned(),
        CommandMethod::Ping => "ping".to_owned(),
    }
}

fn connect(ConnectCommand { token, data, subs, name, version }: &ConnectCommand<'_>) -> String {
    format!("connect {token:?} {data:?} {subs:?} {name:?} {version:?}")
}

fn subscribe(request: &SubscribeCommand<'_>) -> String {
    let SubscribeCommand { channel, token, recovery, data, delta, flag, .. } = request;
    let wishes = [request.is_positioned, request.is_recoverable, request.wants_join_leave];
    let filter = request.filter.map(|filter| filter.read());
    format!("subscribe {channel:?} {token:?} {recovery:?} {data:?} {wishes:?} {delta:?} {flag} {filter:?}")
}
