//! The Protobuf encoder of replies and pushes. It converts them into the types of the schema, and encodes those, each
//! preceded by its length.

use bytes::Bytes;
use prost::Message;

use crate::{
    protocol::{
        push::{PublicationPush, Push, PushData},
        reply::{ConnectResult, HistoryResult, RefreshResult, Reply, SubscribeResult},
        schema,
    },
    publication::ClientInfo,
};

pub(in crate::protocol) fn encode_reply(id: u32, reply: &Reply<'_>) -> Vec<u8> {
    let mut into = schema::Reply { id, ..Default::default() };
    match reply {
        Reply::Error(error) => {
            let (code, message) = (error.code(), error.message().to_owned());
            into.error = Some(schema::Error { code, message, temporary: error.is_temporary() });
        }
        Reply::Connect(result) => into.connect = Some(connect_result(result)),
        Reply::Subscribe(result) => into.subscribe = Some(subscribe_result(result)),
        Reply::Unsubscribe => into.unsubscribe = Some(schema::UnsubscribeResult {}),
        Reply::Publish => into.publish = Some(schema::PublishResult {}),
        Reply::Presence(members) => {
            let presence = members.iter().map(|member| (member.client.clone(), client_info(member))).collect();
            into.presence = Some(schema::PresenceResult { presence });
        }
        Reply::PresenceStats(stats) => {
            let (num_clients, num_users) = (stats.num_clients, stats.num_users);
            into.presence_stats = Some(schema::PresenceStatsResult { num_clients, num_users });
        }
        Reply::History(result) => into.history = Some(history_result(result)),
        Reply::Rpc(data) => {
            into.rpc = Some(schema::RpcResult { data: data.cloned().unwrap_or_default() });
        }
        Reply::Ping => into.ping = Some(schema::PingResult {}),
        Reply::Refresh(result) => into.refresh = Some(refresh_result(result)),
        Reply::SubRefresh(expiry) => {
            into.sub_refresh = Some(schema::SubRefreshResult { expires: expiry.expires, ttl: expiry.ttl });
        }
    }
    into.encode_length_delimited_to_vec()
}

pub(in crate::protocol) fn encode_push(push: &Push<'_>) -> Vec<u8> {
    let mut into = schema::Push::default();
    match push {
        Push::Join(channel, client) => {
            into.channel = channel.as_str().to_owned();
            into.join = Some(schema::Join { info: Some(client_info(client)) });
        }
        Push::Leave(channel, client) => {
            into.channel = channel.as_str().to_owned();
            into.leave = Some(schema::Leave { info: Some(client_info(client)) });
        }
        Push::Publication(push) => {
            into.channel = push.publication.channel.as_str().to_owned();
            into.r#pub = Some(publication(push));
        }
        Push::Subscribe(channel, result) => {
            into.channel = channel.as_str().to_owned();
            into.subscribe = Some(subscribe_push(result));
        }
        Push::Unsubscribe(channel, why) => {
            into.channel = channel.as_str().to_owned();
            into.unsubscribe = Some(schema::Unsubscribe { code: why.code(), reason: why.reason().to_owned() });
        }
        Push::SubRefresh(channel, expiry) => {
            into.channel = channel.as_str().to_owned();
            into.sub_refresh = Some(schema::SubRefresh { expires: expiry.expires, ttl: expiry.ttl });
        }
        Push::Connect(result) => into.connect = Some(connect_push(result)),
        Push::Refresh(expiry) => into.refresh = Some(schema::Refresh { expires: expiry.expires, ttl: expiry.ttl }),
        Push::Disconnect(code, reason) => {
            into.disconnect = Some(schema::Disconnect { code: u32::from(*code), reason: (*reason).to_owned() });
        }
    }
    schema::Reply { push: Some(into), ..Default::default() }.encode_length_delimited_to_vec()
}

fn connect_result(result: &ConnectResult<'_>) -> schema::ConnectResult {
    schema::ConnectResult {
        client: result.client.to_owned(),
        version: result.version.to_owned(),
        expires: result.expiry.expires,
        ttl: result.expiry.ttl,
        data: result.data.cloned().unwrap_or_default(),
        subs: result.subs.iter().map(|(channel, result)| subscribe_result_entry(channel, result)).collect(),
        ping: result.ping,
        pong: result.pong,
        session: result.session.to_owned(),
        node: result.node.to_owned(),
        ..Default::default()
    }
}

fn subscribe_result_entry(channel: &str, result: &SubscribeResult<'_>) -> schema::SubscribeResultEntry {
    schema::SubscribeResultEntry { channel: channel.to_owned(), result: Some(subscribe_result(result)) }
}

/// Returns the connect push, which has the fields of the connect result under other numbers.
fn connect_push(result: &ConnectResult<'_>) -> schema::Connect {
    let schema::ConnectResult { client, version, expires, ttl, data, subs, ping, pong, session, node, time } =
        connect_result(result);
    schema::Connect { client, version, data, subs, expires, ttl, ping, pong, session, node, time }
}

fn subscribe_result(result: &SubscribeResult<'_>) -> schema::SubscribeResult {
    let (epoch, offset) = epoch_and_offset(result);
    schema::SubscribeResult {
        expires: result.expiry.expires,
        ttl: result.expiry.ttl,
        recoverable: result.is_recoverable,
        epoch,
        publications: result.publications.iter().map(publication).collect(),
        recovered: result.is_recovered,
        offset,
        positioned: result.is_positioned,
        data: result.data.cloned().unwrap_or_default(),
        was_recovering: result.was_recovering,
        delta: result.has_delta,
    }
}

/// Returns the subscribe push, which has some of the fields of the subscribe result.
fn subscribe_push(result: &SubscribeResult<'_>) -> schema::Subscribe {
    let (epoch, offset) = epoch_and_offset(result);
    schema::Subscribe {
        recoverable: result.is_recoverable,
        epoch,
        offset,
        positioned: result.is_positioned,
        data: result.data.cloned().unwrap_or_default(),
    }
}

fn epoch_and_offset(result: &SubscribeResult<'_>) -> (String, u64) {
    result.position.as_ref().map(|position| (position.epoch.as_str().to_owned(), position.offset)).unwrap_or_default()
}

fn history_result(result: &HistoryResult<'_>) -> schema::HistoryResult {
    schema::HistoryResult {
        publications: result.publications.iter().map(publication).collect(),
        epoch: result.position.epoch.as_str().to_owned(),
        offset: result.position.offset,
    }
}

fn refresh_result(result: &RefreshResult<'_>) -> schema::RefreshResult {
    schema::RefreshResult {
        client: result.client.to_owned(),
        version: result.version.to_owned(),
        expires: result.expiry.expires,
        ttl: result.expiry.ttl,
    }
}

fn publication(PublicationPush { publication, content }: &PublicationPush<'_>) -> schema::Publication {
    let (data, delta) = match content {
        PushData::Plain | PushData::Full => (publication.data.clone(), false),
        PushData::Delta(delta) => (Bytes::copy_from_slice(delta), true),
    };
    schema::Publication {
        data,
        info: publication.info.as_deref().map(client_info),
        offset: publication.position.map_or(0, |position| position.offset),
        tags: publication.tags.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        delta,
        time: publication.time.unix_millis(),
        channel: String::new(),
    }
}

fn client_info(ClientInfo { user, client, conn_info, chan_info }: &ClientInfo) -> schema::ClientInfo {
    schema::ClientInfo {
        user: user.clone(),
        client: client.clone(),
        conn_info: conn_info.clone().unwrap_or_default(),
        chan_info: chan_info.clone().unwrap_or_default(),
    }
}
