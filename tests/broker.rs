//! Memory and Redis keep the same promises. `conformance` and the first half of `tickets` are what every broker must do
//! and run against each; `history`, `members`, `repetition` and `model` are what every broker that keeps anything must do;
//! the rest is about what only one of them can do to us.

mod bus;
mod conformance;
mod fixture;
mod history;
mod members;
mod model;
mod outages;
mod proxy;
mod repetition;
mod tickets;

use fixture::{memory, redis};

/// Runs each behaviour against a broker, as a test of its own.
macro_rules! on {
    ($broker:ident = $instance:expr; $($file:ident::$behaviour:ident)*) => {
        mod $broker {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$file::$behaviour($instance).await;
            })*
        }
    };
}

macro_rules! every_broker {
    ($($behaviours:tt)*) => {
        on! { in_memory = super::memory(); $($behaviours)* }
        on! { over_redis = super::redis().await; $($behaviours)* }
    };
}

/// Those that keep histories and members.
macro_rules! every_keeper {
    ($($behaviours:tt)*) => {
        on! { kept_in_memory = super::memory(); $($behaviours)* }
    };
}

every_broker! {
    conformance::a_publication_reaches_a_subscriber_as_it_is
    conformance::nobody_gets_what_he_is_not_subscribed_to
    conformance::publications_arrive_in_the_order_of_the_calls
    conformance::the_last_call_decides_whether_a_channel_is_received
    conformance::channels_may_have_any_valid_name
    conformance::large_data_arrives
    conformance::a_survey_hears_every_instance
    conformance::a_survey_that_nobody_answers_is_an_error
    conformance::an_answer_may_be_long
    conformance::an_order_arrives_as_it_is
    tickets::a_ticket_is_taken_once
    tickets::of_all_who_ask_for_a_ticket_at_once_one_gets_it
    tickets::a_ticket_that_is_over_is_not_there
    tickets::a_ticket_that_is_put_again_is_the_new_one
    tickets::what_cannot_be_a_tickets_id_is_not_there
    conformance::it_is_ready
}

every_keeper! {
    history::publications_have_offsets_in_the_order_in_which_they_arrive
    history::a_history_keeps_the_newest_and_knows_where_it_stands
    history::publications_whose_time_is_over_are_gone_and_their_offsets_are_not_given_again
    history::a_page_is_behind_a_place_or_before_it
    history::a_place_of_another_epoch_or_beyond_the_top_has_nothing_behind_it
    history::whoever_asks_first_has_a_position_that_lasts
    history::a_channel_that_nobody_asked_for_long_begins_anew
    history::a_removed_history_still_knows_where_it_stands
    history::a_publication_comes_back_whole
    history::histories_of_channels_have_nothing_to_do_with_each_other
    history::what_is_not_to_be_kept_is_only_told
    repetition::a_key_publishes_once_in_its_channel_for_five_minutes
    repetition::of_many_with_one_key_at_once_one_is_published_and_all_get_its_answer
    repetition::a_key_that_failed_may_be_tried_again
    repetition::a_version_that_is_not_newer_is_left_out
    members::members_are_there_until_they_leave_or_their_time_is_over
    members::who_reconnects_leaves_no_ghost
    members::joins_and_leaves_reach_who_is_subscribed
    model::any_sequence_of_calls_does_what_a_plain_list_does
}
