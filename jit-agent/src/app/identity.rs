//! Finds the host's id where the file leaves it to a metadata service (`[host] id = "auto"`), and keeps
//! it for the next start.
//!
//! The gate is in force meanwhile: with the id that was found last, or without grants. The services are
//! asked at every start, again and again until one answers, and then no more. What they say together with
//! the kept id is decided by [`decide`], a plain function.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    app::reload::Beginning,
    disk::host_id::KeptId,
    gate::{GateHandle, faults::Faults},
    rules::problem::ProblemKind,
    system::{
        metadata::{Found, Report, Source, Verdict, ask_all},
        sys,
    },
};

/// The shortest and the longest pause between two tries.
const PAUSES: [Duration; 2] = [Duration::from_secs(4), Duration::from_secs(300)];
/// After as many tries without an answer of the kept id's own source, another source counts.
const TRIES: u32 = 3;
/// What the fault about the disk is about.
const KEPT: &str = "kept";

/// What to do with the answers.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Step {
    /// Nobody can say which of the two it is.
    Ambiguous(Vec<Found>),
    /// It is another machine than the kept id's.
    Changed(Found),
    /// The kept id is right.
    Confirmed,
    /// The first id.
    Take(Found),
    /// Ask again later.
    Wait,
}

/// `missing`: how often the kept id's source did not answer before.
fn decide(kept: Option<&Found>, reports: &[Report], missing: u32) -> Step {
    let verdict = Verdict::of(reports);
    let Some(kept) = kept else {
        return match verdict {
            Verdict::Ambiguous(all) => Step::Ambiguous(all),
            Verdict::Found(found) => Step::Take(found),
            Verdict::Nothing => Step::Wait,
        };
    };
    if let Verdict::Ambiguous(all) = verdict {
        return Step::Ambiguous(all);
    }
    let own = reports.iter().filter_map(Report::found).find(|found| found.source == kept.source);
    match (own, verdict) {
        (Some(own), _) if is_same(&own, kept) => Step::Confirmed,
        (Some(own), _) => Step::Changed(own),
        (None, Verdict::Found(found)) if missing >= TRIES => Step::Changed(found),
        (None, _) => Step::Wait,
    }
}

/// Names of Azure's resources are the same in either case.
fn is_same(one: &Found, other: &Found) -> bool {
    match one.source {
        Source::Arc | Source::Azure => one.id.eq_ignore_ascii_case(&other.id),
        Source::Ec2 | Source::Gcp => one.id == other.id,
    }
}

/// The keeper of the host's id.
pub(super) struct HostKeeper {
    path: PathBuf,
    state: PathBuf,
    kept: Option<KeptId>,
    gate: GateHandle,
    faults: Faults,
}

impl HostKeeper {
    pub(super) fn new(
        beginning: &Beginning,
        kept: Option<KeptId>,
        gate: &GateHandle,
        faults: &Faults,
    ) -> Self {
        let keeper = Self {
            path: beginning.path.clone(),
            state: beginning.loaded.config.paths.state.clone(),
            kept,
            gate: gate.clone(),
            faults: faults.clone(),
        };
        if keeper.kept.is_none() {
            keeper.report_unknown("no metadata service was asked yet");
        }
        keeper
    }

    /// The id in force.
    pub(super) fn host(&self) -> String {
        self.kept.as_ref().map(|kept| kept.found.id.clone()).unwrap_or_default()
    }

    /// Asks until the id is known and on the disk. Does not return.
    pub(super) async fn run(mut self) {
        let [mut pause, longest] = PAUSES;
        let (mut missing, mut unwritten) = (0_u32, false);
        loop {
            let reports = ask_all().await;
            let step = decide(self.kept.as_ref().map(|kept| &kept.found), &reports, missing);
            let settled = match step {
                Step::Ambiguous(all) => {
                    self.report_ambiguous(&all);
                    false
                }
                Step::Changed(found) => {
                    self.change(found).await;
                    unwritten = true;
                    true
                }
                Step::Confirmed => {
                    self.faults.set(ProblemKind::HostId, None);
                    true
                }
                Step::Take(found) => {
                    tracing::info!(host = found.id, source = %found.source, "the host's id is known");
                    self.take(found).await;
                    unwritten = true;
                    true
                }
                Step::Wait => {
                    missing = missing.saturating_add(1);
                    self.report_waiting(&reports);
                    false
                }
            };
            if unwritten {
                unwritten = !self.keep().await;
            }
            if settled && !unwritten {
                return std::future::pending().await;
            }
            sleep(jittered(pause)).await;
            pause = pause.saturating_mul(2).min(longest);
        }
    }

    /// Puts an id in force.
    async fn take(&mut self, found: Found) -> u32 {
        self.faults.set(ProblemKind::HostId, None);
        let closed = self.gate.identify(found.clone()).await;
        self.kept = Some(KeptId::new(&self.path, found, sys::now().wall));
        closed.unwrap_or_else(|gone| {
            tracing::error!("{gone}");
            0
        })
    }

    async fn change(&mut self, found: Found) {
        let before = self.kept.take();
        let (old, since) = before.map_or_else(Default::default, |kept| {
            let since = kept.since().to_string();
            (kept.found.id, since)
        });
        let (source, id) = (found.source, found.id.clone());
        let closed = self.take(found).await;
        let text = format!(
            "this is another machine than before: {source} says {id}, and the id since {since} was \
             {old}; grants of that id are closed (there were {closed}), and this host is {id} from now \
             on; if it was made of the other one's image, give it a key and certificate of its own \
             (`jit-agent init`), then `systemctl restart jit-agent` ends this alarm"
        );
        if self.faults.set(ProblemKind::HostIdChanged, Some(text.clone())) {
            tracing::error!("{text}");
        }
    }

    /// Writes the id for the next start. Returns whether the disk has it.
    async fn keep(&self) -> bool {
        let Some(kept) = self.kept.clone() else { return true };
        let state = self.state.clone();
        let written = spawn_blocking(move || kept.write(&state)).await;
        let written = written.map_err(|error| error.to_string());
        let failed = written.and_then(|done| done.map_err(|error| error.to_string())).err();
        let text = failed.map(|why| {
            format!("the host's id cannot be kept for the next start, which begins without: {why}")
        });
        let is_kept = text.is_none();
        if self.faults.set(ProblemKind::HostId.of(KEPT), text.clone())
            && let Some(text) = text
        {
            tracing::error!("{text}");
        }
        is_kept
    }

    fn report_waiting(&self, reports: &[Report]) {
        let answers = words(reports);
        match &self.kept {
            Some(kept) => tracing::warn!(
                "the host's id {} of {} is in force, but {} does not say so now: {answers}",
                kept.found.id,
                kept.since(),
                kept.found.source,
            ),
            None => self.report_unknown(&answers),
        }
    }

    fn report_unknown(&self, why: &str) {
        let text = format!(
            "the host's id is not known, so no grant opens anything: [host] id is \"auto\", and {why}; \
             `jit-agent identity` says more, or write the id into the file and `systemctl restart \
             jit-agent`"
        );
        if self.faults.set(ProblemKind::HostId, Some(text.clone())) {
            tracing::error!("{text}");
        }
    }

    fn report_ambiguous(&self, all: &[Found]) {
        let named: Vec<_> =
            all.iter().map(|found| format!("{} {}", found.source, found.id)).collect();
        let stays = match &self.kept {
            Some(kept) => format!("{} stays the host's id", kept.found.id),
            None => "the host's id is not known, so no grant opens anything".to_owned(),
        };
        let text = format!(
            "two clouds say that this is their machine: {}; {stays}; write the id into the file ([host] \
             id), then `systemctl restart jit-agent`",
            named.join(", ")
        );
        if self.faults.set(ProblemKind::HostId, Some(text.clone())) {
            tracing::error!("{text}");
        }
    }
}

/// What each source answered, in a word.
fn words(reports: &[Report]) -> String {
    let word = |one: &Report| match &one.answer {
        Ok(id) => format!("{}: {id}", one.source),
        Err(fault) => format!("{}: {}", one.source, fault.word()),
    };
    reports.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Half of the pause to all of it: many hosts that start together do not ask together.
fn jittered(pause: Duration) -> Duration {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    pause.mul_f64(0.5 + f64::from(nanos % 1_000) / 2_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::metadata::Fault;

    fn found(source: Source, id: &str) -> Found {
        Found { source, id: id.into() }
    }

    fn reports(answers: &[(Source, &str)]) -> Vec<Report> {
        let answer = |source| {
            let own = answers.iter().find(|(one, _)| *one == source);
            let answer = own.map(|(_, id)| (*id).to_owned()).ok_or(Fault::Slow);
            Report { source, answer }
        };
        Source::ALL.into_iter().map(answer).collect()
    }

    #[test]
    fn a_first_answer_is_taken_and_none_is_waited_for() {
        assert_eq!(decide(None, &reports(&[]), 100), Step::Wait);
        let ec2 = reports(&[(Source::Ec2, "e")]);
        assert_eq!(decide(None, &ec2, 0), Step::Take(found(Source::Ec2, "e")));
        let two = reports(&[(Source::Ec2, "e"), (Source::Gcp, "g")]);
        assert!(matches!(decide(None, &two, 0), Step::Ambiguous(_)));
    }

    #[test]
    fn the_kept_id_stays_while_its_source_gives_it_or_is_silent() {
        let kept = found(Source::Azure, "/subscriptions/A");
        let decide =
            |answers: &[(Source, &str)], missing| decide(Some(&kept), &reports(answers), missing);
        let own = (Source::Azure, "/Subscriptions/a");
        assert_eq!(decide(&[own], 0), Step::Confirmed);
        // Arc was installed since.
        assert_eq!(decide(&[own, (Source::Arc, "/subscriptions/arc")], 9), Step::Confirmed);
        assert_eq!(decide(&[], 1_000), Step::Wait);
        let other = (Source::Ec2, "e");
        assert_eq!(decide(&[other], TRIES - 1), Step::Wait);
        assert!(matches!(decide(&[own, other], 0), Step::Ambiguous(_)));
    }

    #[test]
    fn another_id_of_its_source_or_a_lasting_other_source_is_another_machine() {
        let kept = found(Source::Ec2, "e");
        let other = reports(&[(Source::Ec2, "E")]);
        assert_eq!(decide(Some(&kept), &other, 0), Step::Changed(found(Source::Ec2, "E")));
        let moved = reports(&[(Source::Gcp, "g")]);
        assert_eq!(decide(Some(&kept), &moved, TRIES), Step::Changed(found(Source::Gcp, "g")));
    }

    #[test]
    fn pauses_are_never_longer_than_asked_nor_shorter_than_half() {
        for _ in 0..100 {
            let pause = jittered(PAUSES[1]);
            assert!(pause <= PAUSES[1] && pause * 2 >= PAUSES[1], "{pause:?}");
        }
    }
}
