//! Has certificates renewed of hosts that are at hubs of the bus. Which host has which certificate, no hub
//! is asked: each host proves it when it is called. No word of a hub ends the attempts: one that was broken
//! into must not let the certificate of a host end that has moved to another one.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep};

use super::{
    super::{
        FleetError,
        backoff::random,
        outbox::Outbox,
        reach::Caller,
        renewal::{self, Renewed, Trouble},
    },
    calls::Calls,
};
use crate::{clock::now_ms, store::StoreError};

/// Between two looks for certificates that are due.
const EVERY: Duration = Duration::from_secs(5);
/// Certificates that are renewed at the same time.
const AT_ONCE: usize = 16;

/// Renews certificates until the task is ended.
pub(super) async fn run(outbox: Outbox, calls: Arc<Calls>) {
    let renewals = Renewals { outbox, calls };
    let mut known = HashMap::new();
    loop {
        if let Err(error) = renewals.round(&mut known).await {
            tracing::warn!(%error, "which certificates are due cannot be read");
        }
        sleep(EVERY).await;
    }
}

struct Renewals {
    outbox: Outbox,
    calls: Arc<Calls>,
}

/// What is known of a certificate that is due, by its serial number.
type Known = HashMap<String, State>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its host has proven that it has a later one, or does not get one.
    Done,
    /// So many attempts came to nothing, or are not proven; the next one is then.
    Again(u32, Instant),
}

impl Renewals {
    async fn round(&self, known: &mut Known) -> Result<(), StoreError> {
        let due = self.outbox.store().certificates_due(renewal::FROM, now_ms()).await?;
        let serials: BTreeSet<_> = due.iter().map(|(serial, _)| serial.as_str()).collect();
        known.retain(|serial, _| serials.contains(serial.as_str()));
        let now = Instant::now();
        let tries = due.iter().filter(|(serial, _)| is_time(known.get(serial), now));
        let tries: Vec<_> = tries.cloned().collect();
        let mut ended = stream::iter(tries)
            .map(async |(serial, host)| {
                let ended = Box::pin(self.renew(&host)).await;
                (serial, host, ended)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((serial, host, ended)) = ended.next().await {
            let before = known.get(&serial).copied();
            known.insert(serial, after(&host, before, ended));
        }
        Ok(())
    }

    async fn renew(&self, host: &str) -> Result<Renewed, Trouble> {
        let known = self.outbox.store().host(host).await?;
        let known = known.ok_or_else(|| Trouble::Later("it is no host here".into()))?;
        if known.observed.alarms.iter().any(|alarm| alarm.holds) {
            return Err(Trouble::Later("an alarm holds it: look at its page first".into()));
        }
        let line = self.calls.line(host).await;
        let line = line.map_err(|error: FleetError| Trouble::Later(error.to_string()))?;
        renewal::renew(&self.outbox, host, &mut Caller::Bus(Box::new(line)), None).await
    }
}

fn is_time(state: Option<&State>, now: Instant) -> bool {
    match state {
        None => true,
        Some(State::Done) => false,
        Some(State::Again(_, at)) => *at <= now,
    }
}

fn after(host: &str, before: Option<State>, ended: Result<Renewed, Trouble>) -> State {
    let failed = match before {
        Some(State::Again(failed, _)) => failed.saturating_add(1),
        Some(State::Done) | None => 1,
    };
    match ended {
        Ok(Renewed::Proven) => return State::Done,
        Err(Trouble::Over(why)) => {
            tracing::warn!(host, "its certificate is not renewed: {why}");
            return State::Done;
        }
        Ok(Renewed::Brought) => {}
        Err(Trouble::Never(why) | Trouble::Later(why)) if failed == 1 => {
            tracing::warn!(host, "its certificate is not renewed yet: {why}");
        }
        Err(_) => {}
    }
    State::Again(failed, Instant::now() + renewal::AGAIN.pause(failed, random()))
}
