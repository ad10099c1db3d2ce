//! Carries closings that were made past the agent (`disk::closings`) into ledger, database and
//! audit: what was closed while it did not answer stays closed.

use std::{fs, path::PathBuf, thread};

use crate::{
    config::Paths,
    disk::{
        audit::{EventCode, Record},
        closings::{self, Closing, What},
    },
    gate::{Gate, Target},
    kernel::datapath::Datapath,
    rules::{clock::Now, problem::ProblemKind},
    system::meters::meters,
};

/// The name of the fault.
const FAULT: ProblemKind = ProblemKind::Closings;

impl<D: Datapath> Gate<D> {
    /// Carries the closings of the runtime directory, and returns them: in every tick, before the tables
    /// are reviewed.
    pub(super) fn carry_closings(&mut self, now: Now) -> Vec<Closing> {
        let (found, unreadable) = closings::pending(&self.config.paths.runtime);
        self.carry(found, unreadable, now)
    }

    /// The same with those of the state directory: at a start, when the grants are back in the
    /// ledger and before they open.
    pub(super) fn carry_all_closings(&mut self, now: Now) -> Vec<Closing> {
        let paths = &self.config.paths;
        let (mut found, mut unreadable) = closings::pending(&paths.state);
        let (more, others) = closings::pending(&paths.runtime);
        found.extend(more);
        unreadable.extend(others);
        self.carry(found, unreadable, now)
    }

    fn carry(
        &mut self,
        found: Vec<(PathBuf, Closing)>,
        mut unreadable: Vec<String>,
        now: Now,
    ) -> Vec<Closing> {
        let (mut done, mut carried) = (Vec::new(), Vec::new());
        for (path, closing) in found {
            let Some(target) = target(&closing.what) else {
                unreadable.push(format!("{}: it names nothing", path.display()));
                continue;
            };
            done.push(path);
            if carried.contains(&closing) {
                continue;
            }
            let Closing { cut, by, why, sessions_ended, .. } = &closing;
            let why = format!("{why} (closed while the agent did not answer)");
            let revoke = if *cut { Self::revoke_and_cut } else { Self::revoke };
            let warning = revoke(self, &target, by, &why, now).warning;
            if *sessions_ended > 0 {
                let record = Record::new(EventCode::SessionsEndedPast).by(by);
                let record = record.with("sessions", *sessions_ended);
                self.record(record.text("why", &why), now);
            }
            tracing::warn!(
                by,
                why,
                warning,
                sessions_ended,
                "carried a closing that was made past the agent"
            );
            meters().closings.inc();
            carried.push(closing);
        }
        let text = unreadable.first().map(|first| {
            format!("a closing cannot be read: {first}: its grants may open again; revoke them")
        });
        self.faults.set(FAULT, text);
        if !done.is_empty() {
            // What the disk does not know yet is carried once more by the next start.
            let durable = !self.outbox.is_closed() && !self.outbox.has_unkept();
            forget(done, self.config.paths.clone(), durable);
        }
        carried
    }
}

/// Removes these files, and if the closings are durable those of the same names in the state
/// directory. A disk that hangs is not waited for: to carry a closing twice ends nothing more.
fn forget(done: Vec<PathBuf>, paths: Paths, durable: bool) {
    let remove = move || {
        for path in done {
            let name = path.file_name().unwrap_or_default();
            let kept = closings::path(&paths.state, name);
            if durable {
                drop(fs::remove_file(&kept));
            }
            if path != kept {
                drop(fs::remove_file(&path));
            }
        }
    };
    let _unstarted = thread::Builder::new().name("closings".into()).spawn(remove);
}

fn target(what: &What) -> Option<Target> {
    match what {
        What::All => Some(Target::All),
        What::Grant(_) => what.grant().map(|id| Target::Ids(vec![id])),
        What::Source(_) => what.source().map(Target::Source),
        What::User(name) => (!name.is_empty()).then(|| Target::Requester(name.clone())),
    }
}
