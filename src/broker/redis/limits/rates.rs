//! The rates of users in Redis: one key for each user whose bucket is not full, which expires when it is.

use std::time::Duration;

use super::{
    super::{RedisContext, scripts},
    query_keys,
};
use crate::{
    broker::{BrokerError, RateCharge},
    rate_limit::Gcra,
};

/// Maximum time until a bucket is full again, however many instances have let a user publish at the same time.
const MAX_LEFT: Duration = Duration::from_secs(60);

/// Charges events, and returns for each user how long it takes until its bucket is full, if its server answers.
pub(super) async fn charge(
    context: &RedisContext,
    charges: Vec<RateCharge>,
    rate: Gcra,
) -> Vec<Result<Duration, BrokerError>> {
    let keys: Vec<String> = charges.iter().map(|charge| context.names.rate_key(&charge.user_tag)).collect();
    let build = |keys: &[&String], numbers: &[usize]| {
        let mut call = scripts::RATES.call(keys);
        call.arg(rate.interval / 1000).arg(u64::try_from(MAX_LEFT.as_micros()).unwrap_or(u64::MAX));
        numbers.iter().for_each(|number| _ = call.arg(charges[*number].events));
        call
    };
    let left = query_keys::<u64>(context, &keys, context.timeout, build).await;
    left.into_iter().map(|left| left.map(Duration::from_micros)).collect()
}
