//! Memory and Redis keep the same promises. `conformance` and the first half of `tickets` are what every broker must do
//! and run against each; the rest is about what only Redis can do to us.

mod bus;
mod conformance;
mod fixture;
mod outages;
mod proxy;
mod tickets;

use fixture::{memory, redis};

/// Runs each behaviour against each broker, as a test of its own.
macro_rules! every_broker {
    ($($file:ident::$behaviour:ident)*) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$file::$behaviour(super::memory()).await;
            })*
        }

        mod over_redis {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$file::$behaviour(super::redis().await).await;
            })*
        }
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
