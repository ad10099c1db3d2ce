//! The gate's loop: serves commands in the order of their urgency, and lets time pass.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    gate::{
        Gate, Pusher, TICK,
        command::{Denial, QUEUE, Read, Requests, Urgent},
        configuration::NextStart,
        looks::Looks,
        verification::KeysInForce,
        waiting::{Push, PushRequests},
    },
    kernel::datapath::Datapath,
    rules::clock::Now,
};

/// How long envelopes are admitted at once. Revocations are served between two slices.
const SLICE: Duration = Duration::from_millis(10);
/// Largest number of events that are looked at in one go.
const MAX_EVENTS: usize = 255;

impl<D: Datapath> Gate<D> {
    /// Serves requests and lets time pass, until every handle is gone. `clock` reads both clocks;
    /// `alive` is called at each tick (the watchdog).
    pub async fn run(mut self, mut requests: Requests, clock: impl Fn() -> Now, alive: impl Fn()) {
        self.outbox.set_patience(requests.patience.clone());
        self.recorder.set_patience(requests.patience.clone());
        requests.keys.replace(&self.config);
        let ticks = Ticks::from(Instant::now());
        let mut next_check = ticks.after(Instant::now());
        let mut looks = Looks::default();
        loop {
            let quiet = self.advance(clock());
            if self.trials.take_returned() {
                requests.keys.replace(&self.config);
            }
            requests.listed.store(self.ledger.listed(), Ordering::Relaxed);
            let began = Instant::now();
            let look = looks.due(began).unwrap_or(next_check);
            let wake = (began + quiet).min(next_check).min(look);
            // Even when they come very fast, time passes and other commands are served.
            for request in std::iter::from_fn(|| requests.urgent.try_recv().ok()).take(QUEUE) {
                self.serve(request.taken(), &mut requests.keys, clock());
            }
            // The order of the others is random, so that no kind of request starves another.
            tokio::select! {
                request = requests.urgent.recv() => match request {
                    Some(request) => self.serve(request.taken(), &mut requests.keys, clock()),
                    None => return,
                },
                Some(read) = requests.reads.recv() => {
                    self.answer(read.taken(), requests.keys.generation(), &clock);
                }
                (by, push) = requests.pushes.next() => {
                    let generation = requests.keys.generation();
                    self.push_some(&by, push, &requests.pushes, generation, clock());
                }
                Some(event) = requests.events.recv() => {
                    // Events that came together go to the disk together.
                    for event in with_the_waiting(event, &mut requests.events, MAX_EVENTS) {
                        self.saw_packet(&event, clock());
                    }
                }
                Some(denial) = requests.denials.recv() => {
                    let denials = with_the_waiting(denial, &mut requests.denials, QUEUE);
                    for Denial { by, asked } in denials {
                        self.saw_denial(&by, asked, clock());
                    }
                }
                () = requests.links.notified() => {
                    requests.patience.links_wait(false);
                    // Without the rest between two looks: until then a new link is open.
                    self.attach_new_links(&requests.new_links.take(), clock());
                    looks.want();
                }
                Ok(()) = requests.translations.changed() => {
                    let read = requests.translations.borrow_and_update().clone();
                    self.saw_translations(read);
                }
                // The clock is looked at before anything else is done.
                () = requests.stepped.notified() => {}
                () = sleep_until(wake) => {}
            }
            self.look_at_links(&mut looks, &clock);
            if Instant::now() >= next_check {
                self.record_missed(requests.missed.swap(0, Ordering::Relaxed), clock());
                self.missed_denials(requests.missed_drops.swap(0, Ordering::Relaxed));
                self.tick(clock());
                alive();
                next_check = ticks.after(Instant::now());
            }
        }
    }

    /// Looks at the links if that is due.
    fn look_at_links(&mut self, looks: &mut Looks, clock: impl Fn() -> Now) {
        let began = Instant::now();
        if looks.due(began).is_some_and(|due| due <= began) {
            let failed = self.attach_links(clock());
            looks.looked(began, Instant::now(), failed);
            tracing::debug!(took = ?began.elapsed(), failed, "looked at the links");
        }
    }

    /// Admits a slice of a push, and answers if it was the last one. What nobody's safety depends on
    /// comes after the answer.
    fn push_some(
        &mut self,
        by: &str,
        mut push: Push,
        pushes: &PushRequests,
        generation: u64,
        now: Now,
    ) {
        let began = Instant::now();
        let in_time = || began.elapsed() < SLICE;
        let candidates = &mut push.batch.candidates;
        let pusher = Pusher { name: by.to_owned(), may_revoke: push.may_revoke };
        let outcomes = self.push_slice(candidates, generation, &pusher, now, in_time);
        push.outcomes.extend(outcomes.iter().cloned());
        pushes.done(by, push);
        self.report_accepted(&outcomes, by, now);
    }

    fn serve(&mut self, request: Urgent, keys: &mut KeysInForce, now: Now) {
        // Whoever asked may be gone.
        match request {
            // Root has gone on without the agent: nothing opens that nobody waits for.
            Urgent::BreakGlass { reply, .. } if reply.is_closed() => {}
            Urgent::BreakGlass { asked, by, reply } => {
                drop(reply.send(self.break_glass(&asked, &by, now)));
            }
            // Nobody waits for it: the disk does not have it.
            Urgent::BeginTrial { reply, .. } if reply.is_closed() => {}
            Urgent::BeginTrial { trial, reply } => {
                let begun = self.begin_trial(&trial, now);
                if begun.is_ok() {
                    keys.replace(&self.config);
                }
                drop(reply.send(begun));
            }
            Urgent::Certificate { end, reply } => {
                self.set_certificate_end(end, now);
                let _gone = reply.send(());
            }
            Urgent::Configure { config, since, reply } => {
                let result = self.reconfigure(*config, now);
                if result.is_ok() {
                    // Before the answer: what is verified after it is verified by these.
                    keys.replace(&self.config);
                    self.set_in_force_since(since);
                }
                drop(reply.send(result));
            }
            Urgent::ConfirmTrial { step, by, reply } => {
                let _gone = reply.send(self.confirm_trial(step, &by, now));
            }
            Urgent::Identify { found, reply } => {
                let closed = self.identify(found, now);
                keys.replace(&self.config);
                let _gone = reply.send(closed);
            }
            Urgent::RefuseConfiguration { why, reply } => {
                self.refuse_configuration(&why, NextStart::LastGood, now);
                let _gone = reply.send(());
            }
            Urgent::Record { record, reply } => {
                self.record(*record, now);
                self.settle_audit(now);
                let _gone = reply.send(());
            }
            Urgent::Revoke { target, cut, by, why, reply } => {
                let revoke = if cut { Self::revoke_and_cut } else { Self::revoke };
                drop(reply.send(revoke(self, &target, &by, &why, now)));
            }
            Urgent::RevokeSigned { envelope, check, by, reply } => {
                let verified = check.settled(keys.generation());
                drop(reply.send(self.revoke_verified(&envelope, verified, &by, now)));
            }
            Urgent::Stop { why, reply } => {
                self.stop(&why, now);
                let _gone = reply.send(());
            }
        }
    }

    fn answer(&mut self, read: Read, generation: u64, clock: impl Fn() -> Now) {
        let now = clock();
        // Whoever asked may be gone.
        match read {
            Read::Compare { asked, check, by, reply } => {
                let verified = check.settled(generation);
                let compared = self.compare_verified(*asked, verified, &by, now);
                self.settle_audit(now);
                drop(reply.send(compared));
            }
            Read::ConfirmPolicy { version, connected, by, reply } => {
                let confirmed = self.confirm_policy(version, connected, &by, now);
                self.settle_audit(now);
                drop(reply.send(confirmed));
            }
            Read::Denials { query, reply } => drop(reply.send(self.answer_denials(&query, now))),
            Read::DiffPolicy { draft, check, reply } => {
                let verified = check.settled(generation);
                drop(reply.send(self.diff_verified_policy(&draft, verified, now)));
            }
            Read::Ended { reply } => drop(reply.send(self.ended_states(now))),
            Read::GrantIds { reply } => drop(reply.send(self.grant_ids())),
            Read::Grants { ids, reply } => drop(reply.send(self.grant_states(&ids, now))),
            Read::Measure { reply } => drop(reply.send(self.measure(now))),
            Read::PushPolicy { push, check, by, reply } => {
                let verified = check.settled(generation);
                let pushed = self.push_verified_policy(push, verified, &by, now);
                if pushed.as_ref().is_ok_and(|pushed| pushed.reason != "known") {
                    self.policy_applied(clock());
                }
                self.settle_audit(now);
                drop(reply.send(pushed));
            }
            Read::SetPolicyFloor { version, by, reply } => {
                drop(reply.send(self.set_policy_floor(version, &by, now)));
            }
            Read::ShowPolicy { reply } => drop(reply.send(self.show_policy(now))),
            Read::PreviewTrial { config, sessions, reply } => {
                drop(reply.send(self.preview(&config, &sessions, now)));
            }
            Read::Trial { reply } => drop(reply.send(self.trials.state(now))),
            // The answer must show the interfaces as they are now.
            Read::Status { reply } => drop(reply.send(self.answer_status(now))),
            Read::Why { question, requester, reply } => {
                drop(reply.send(self.why(question, &requester, now)));
            }
        }
    }
}

/// The times of the ticks: multiples of [`TICK`] after the start of this thread's runtime, which was
/// made just before.
///
/// The runtime keeps timers in wheels of 64 slots: of 1 ms, of 64 ms, of 4,096 ms. It wakes at the
/// begin of a slot in a larger wheel, and then again for the timer itself. At these times both are
/// the same, so an idle gate wakes once for each tick.
struct Ticks {
    start: Instant,
}

impl Ticks {
    /// The runtime counts whole milliseconds, and rounds up.
    fn from(now: Instant) -> Self {
        Self { start: now.checked_sub(Duration::from_millis(1)).unwrap_or(now) }
    }

    /// The next tick.
    fn after(&self, now: Instant) -> Instant {
        let passed = now.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        let next = u32::try_from(passed).unwrap_or(u32::MAX).saturating_add(1);
        self.start + TICK.saturating_mul(next)
    }
}

/// A message, and those that wait after it.
fn with_the_waiting<T>(
    first: T,
    waiting: &mut mpsc::Receiver<T>,
    most: usize,
) -> impl Iterator<Item = T> {
    std::iter::once(first).chain(std::iter::from_fn(|| waiting.try_recv().ok()).take(most))
}
