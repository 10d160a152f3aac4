//! Memory and Redis keep the same promises. `conformance` is what every broker must do and runs against each; the other
//! modules are about what only Redis can do to us.

mod bus;
mod conformance;
mod fixture;
mod outages;
mod proxy;

use fixture::{memory, redis};

/// Runs each behaviour against each broker, as a test of its own.
macro_rules! every_broker {
    ($($behaviour:ident)*) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $behaviour() {
                super::conformance::$behaviour(super::memory()).await;
            })*
        }

        mod over_redis {
            $(#[tokio::test]
            async fn $behaviour() {
                super::conformance::$behaviour(super::redis().await).await;
            })*
        }
    };
}

every_broker! {
    a_publication_reaches_a_subscriber_as_it_is
    nobody_gets_what_he_is_not_subscribed_to
    publications_arrive_in_the_order_of_the_calls
    the_last_call_decides_whether_a_channel_is_received
    channels_may_have_any_valid_name
    large_data_arrives
    a_survey_hears_every_instance
    a_survey_that_nobody_answers_is_an_error
    it_is_ready
}
