//! The two streams: what they must be, and what is done about one that is not.
//!
//! Mailboxes and reports do not share a stream: of a mailbox the last message of each subject
//! counts and stays, a report is there until the store has it.

use std::time::Duration;

use async_nats::jetstream::{
    ErrorCode,
    consumer::{AckPolicy, pull},
    context::GetStreamErrorKind,
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
};

use super::{
    Bus, BusError,
    subject::{MAILBOXES, REPORTS},
};

/// The longest message, bytes: an envelope has at most 256 KiB, and there are headers.
pub(super) const LONGEST: i32 = 300 * 1024;
/// The longest report, bytes.
pub(super) const LONGEST_REPORT: i32 = 16 * 1024;
/// The most bytes of all reports. More: hubs are refused, which keep what they have and try again.
const REPORTS_BYTES: i64 = 1024 * 1024 * 1024;
/// A report that nobody has taken for so long is of no use: the outbox has asked again.
const REPORTS_AGE: Duration = Duration::from_secs(24 * 3600);
/// The consumer, and the group, of all that have the store: each report goes to one of them.
pub(super) const REPORTS_GROUP: &str = "store";
/// A report that was taken and is not stored after this time goes out again: its process may be dead.
const REPORT_AGAIN: Duration = Duration::from_secs(10);

/// Within this time the servers notice a message that comes twice.
const TWICE: Duration = Duration::from_secs(120);

impl Bus {
    pub(super) async fn ensure_streams(&self) -> Result<(), BusError> {
        let replicas = self.settings.replicas;
        self.ensure(mailboxes(&self.settings.stream, replicas)).await?;
        self.ensure(reports(&self.reports_stream(), replicas)).await
    }

    /// Makes a stream, or brings one to these settings where that loses nothing.
    async fn ensure(&self, wanted: Config) -> Result<(), BusError> {
        let found = match self.context.get_stream(&wanted.name).await {
            Ok(stream) => stream.cached_info().config.clone(),
            Err(error) if is_missing(&error.kind()) => {
                let made = self.context.create_stream(wanted).await;
                return made.map(drop).map_err(|error| BusError::api("make a stream", error));
            }
            Err(error) => return Err(BusError::api("read a stream's settings", error)),
        };
        let (unsafe_ones, safe_ones) = differences(&found, &wanted);
        if !unsafe_ones.is_empty() {
            let differences = unsafe_ones.join(", ");
            return Err(BusError::Stream { stream: wanted.name, differences });
        }
        if !safe_ones.is_empty() {
            tracing::info!(stream = wanted.name, changes = safe_ones.join(", "), "stream updated");
            let updated = self.context.update_stream(merged(found, wanted)).await;
            updated.map_err(|error| BusError::api("update a stream", error))?;
        }
        Ok(())
    }

    /// The consumer of reports.
    pub(super) async fn consumer(
        &self,
    ) -> Result<async_nats::jetstream::consumer::Consumer<pull::Config>, BusError> {
        let wanted = pull::Config {
            durable_name: Some(REPORTS_GROUP.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: REPORT_AGAIN,
            max_ack_pending: 4096,
            ..pull::Config::default()
        };
        let stream = self.reports_stream();
        let made = self.context.create_consumer_on_stream(wanted, stream).await;
        made.map_err(|error| BusError::api("make the consumer of reports", error))
    }
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error)
        if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn mailboxes(name: &str, num_replicas: usize) -> Config {
    Config {
        name: name.to_owned(),
        subjects: vec![format!("{MAILBOXES}>")],
        max_messages_per_subject: 1,
        max_message_size: LONGEST,
        max_bytes: -1,
        max_messages: -1,
        // Never an older message for a newer one of another host: what does not fit is refused.
        discard: DiscardPolicy::New,
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas,
        duplicate_window: TWICE,
        allow_direct: true,
        allow_message_ttl: true,
        ..Config::default()
    }
}

fn reports(name: &str, num_replicas: usize) -> Config {
    Config {
        name: name.to_owned(),
        subjects: vec![format!("{REPORTS}>")],
        max_message_size: LONGEST_REPORT,
        max_bytes: REPORTS_BYTES,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_age: REPORTS_AGE,
        discard: DiscardPolicy::New,
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        num_replicas,
        duplicate_window: TWICE,
        ..Config::default()
    }
}

/// What is different: what cannot be changed without a loss, and what can.
fn differences(found: &Config, wanted: &Config) -> (Vec<String>, Vec<String>) {
    let (mut unsafe_ones, mut safe_ones) = (Vec::new(), Vec::new());
    macro_rules! compare {
        ($list:ident: $($field:ident),*) => {$(
            if found.$field != wanted.$field {
                let name = stringify!($field);
                $list.push(format!("{name} is {:?}, not {:?}", found.$field, wanted.$field));
            }
        )*};
    }
    compare!(unsafe_ones: subjects, max_messages_per_subject, max_messages, max_age, retention, storage,
        discard, sealed, no_ack, mirror, sources, subject_transform);
    // A larger limit takes more, a smaller one removes: neither is done to what somebody else has
    // set.
    compare!(unsafe_ones: max_message_size, max_bytes);
    compare!(safe_ones: num_replicas, duplicate_window, allow_direct);
    // It can be switched on, and never off again.
    if wanted.allow_message_ttl && !found.allow_message_ttl {
        safe_ones.push("allow_message_ttl is false, not true".to_owned());
    }
    (unsafe_ones, safe_ones)
}

fn merged(found: Config, wanted: Config) -> Config {
    Config {
        num_replicas: wanted.num_replicas,
        duplicate_window: wanted.duplicate_window,
        allow_direct: wanted.allow_direct,
        allow_message_ttl: found.allow_message_ttl || wanted.allow_message_ttl,
        ..found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_loses_nothing_is_changed() {
        let wanted = mailboxes("JIT", 3);
        assert_eq!(differences(&wanted, &wanted), (vec![], vec![]));
        let fewer = Config { num_replicas: 1, allow_direct: false, ..wanted.clone() };
        let (unsafe_ones, safe_ones) = differences(&fewer, &wanted);
        assert_eq!((unsafe_ones.len(), safe_ones.len()), (0, 2));
        assert_eq!(differences(&merged(fewer, wanted.clone()), &wanted), (vec![], vec![]));
        let other = Config { max_messages_per_subject: 5, ..wanted.clone() };
        let (unsafe_ones, _) = differences(&other, &wanted);
        assert_eq!(unsafe_ones, ["max_messages_per_subject is 5, not 1"]);
    }
}
