//! The conformance suite of the brokers. The behaviours under `every_broker` run against every form of broker: memory, and
//! each form of Redis. All other tests are about one kind of broker.

mod bus;
mod claims;
mod cluster;
mod cluster_moves;
mod cluster_tls;
mod conformance;
mod deafness;
mod events;
pub(crate) mod fixture;
mod half_moved_keys;
mod history;
mod leaves;
mod lifetimes;
mod logins;
mod missed;
mod model;
mod new_masters;
mod nodes;
mod outages;
mod presence;
mod redis_history;
mod redis_positions;
mod repetition;
mod revocations;
mod roles;
mod sentinels;
mod server_states;
mod several_servers;
mod shared_calls;
mod shared_limits;
mod signatures;
mod tickets;
mod tls;

use fixture::{memory_instance, redis_instance, several_servers_instance, unix_socket_instance};
use futures_util::future::LocalBoxFuture;

use crate::support::redis::{PrefixedRedis, RedisForm, run_on_parts};

/// Makes each behaviour a test of one kind of broker.
macro_rules! test_with {
    ($broker:ident = $instance:expr; $($file:ident::$behaviour:ident)*) => {
        mod $broker {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$file::$behaviour($instance).await;
            })*
        }
    };
}

/// Makes the behaviours one test over a form of Redis that takes seconds to start.
macro_rules! one_test_with {
    ($test:ident = $redis:expr; $($file:ident::$behaviour:ident)*) => {
        #[tokio::test]
        async fn $test() {
            let behaviours: Vec<(&str, Behaviour)> = vec![
                $((stringify!($behaviour), |redis| {
                    Box::pin(async { $file::$behaviour(fixture::start_on(redis, |_| ()).await).await })
                }),)*
            ];
            run_on_parts($redis.await, behaviours).await;
        }
    };
}

/// A test of a broker on this Redis.
type Behaviour = fn(PrefixedRedis) -> LocalBoxFuture<'static, ()>;

macro_rules! every_broker {
    ($($behaviours:tt)*) => {
        test_with! { in_memory = super::memory_instance(); $($behaviours)* }
        test_with! { over_redis = super::redis_instance().await; $($behaviours)* }
        test_with! { over_unix_socket = super::unix_socket_instance().await; $($behaviours)* }
        test_with! { over_several_servers = super::several_servers_instance().await; $($behaviours)* }
        one_test_with! { every_broker_behaviour_holds_with_sentinels = RedisForm::sentinel(); $($behaviours)* }
        one_test_with! { every_broker_behaviour_holds_over_a_cluster = RedisForm::cluster(); $($behaviours)* }
    };
}

every_broker! {
    conformance::publication_reaches_subscriber_unchanged
    conformance::only_subscribed_channels_are_delivered
    conformance::publications_arrive_in_call_order
    conformance::last_call_decides_whether_a_channel_is_received
    conformance::every_valid_channel_name_works
    conformance::large_data_arrives
    conformance::survey_names_the_node_of_each_answer
    conformance::survey_without_any_answer_is_an_error
    conformance::stop_can_be_announced
    conformance::control_arrives_unchanged
    tickets::ticket_is_taken_once
    tickets::concurrent_takes_of_one_ticket_succeed_once
    tickets::expired_ticket_is_not_found
    tickets::second_put_replaces_the_ticket
    tickets::invalid_ticket_ids_are_not_found
    events::events_wait_in_order_until_they_are_accepted
    events::events_above_the_bound_are_dropped
    logins::refresh_names_the_next_generation_and_the_latest_may_be_repeated
    logins::ended_logins_are_found_until_they_are_removed_or_were_idle_for_too_long
    logins::refresh_before_the_latest_ends_the_login
    logins::repeated_refresh_after_the_grace_ends_the_login
    logins::login_ends_when_it_is_idle_and_at_its_end
    logins::logins_above_the_limit_end_the_ones_refreshed_longest_ago
    logins::selected_logins_end_and_are_returned
    revocations::revocation_is_obeyed_when_the_call_completes
    presence::presence_ends_with_removal_or_expiry
    presence::presence_of_many_channels_is_stored_in_one_call
    presence::repeated_presence_lasts_longer
    presence::reconnecting_client_leaves_no_stale_presence
    presence::presence_calls_take_effect_in_call_order
    presence::large_presence_is_read_up_to_a_limit_and_counted_without_one
    presence::joins_and_leaves_reach_subscribers
    conformance::healthy_broker_is_ready
    history::offsets_follow_the_order_of_delivery
    history::publications_keep_the_order_of_their_calls_whatever_their_options
    history::history_keeps_the_newest_publications_and_its_top_position
    history::expired_publications_are_gone_and_their_offsets_are_not_reused
    history::history_page_starts_after_a_position_or_ends_before_it
    history::position_of_another_epoch_or_beyond_the_top_gives_an_empty_page
    history::first_reader_of_a_channel_creates_its_position
    history::channel_unused_for_meta_ttl_restarts_with_a_new_epoch
    history::removed_history_keeps_its_position
    history::positions_of_many_channels_are_read_without_creating_a_history
    history::lost_epoch_is_renewed_once
    history::history_returns_every_field_of_a_publication
    history::channels_have_independent_histories
    history::publication_without_retention_is_delivered_but_not_stored
    missed::missed_publications_are_those_after_the_position_of_the_client
    repetition::idempotency_key_publishes_once_per_channel_for_five_minutes
    repetition::concurrent_publishes_with_one_key_publish_once_and_share_the_receipt
    repetition::publication_with_an_old_version_is_skipped
    model::any_sequence_of_calls_matches_the_list_model
}
