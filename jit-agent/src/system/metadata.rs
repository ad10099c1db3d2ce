//! The metadata services that say which machine this is: Azure Arc, Azure, EC2 and GCP, each as its
//! documentation says (docs/identity.md).
//!
//! What they say is a *name*, not a proof. They are asked side by side, without proxy, redirect or
//! look-up of a name, and answer within bounds of time and size. An answer is checked before anything is
//! made of it; a fault is data. EC2 is asked by IMDSv2 alone.

pub mod evidence;
mod fault;
mod http;
mod id;
mod port_owner;
mod sources;

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

pub use self::fault::Fault;

/// The longest time for all sources together.
pub const LONGEST: Duration = Duration::from_millis(2_900);

/// A service that names the machine, in the order of their rank.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The agent of Azure Arc.
    Arc,
    /// The metadata service of an Azure VM.
    Azure,
    /// The metadata service of an EC2 instance.
    Ec2,
    /// The metadata service of a GCP VM.
    Gcp,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 4] = [Self::Arc, Self::Azure, Self::Ec2, Self::Gcp];

    /// A stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Arc => "arc",
            Self::Azure => "azure",
            Self::Ec2 => "ec2",
            Self::Gcp => "gcp",
        }
    }

    /// For a person.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Arc => "Azure Arc",
            Self::Azure => "Azure VM",
            Self::Ec2 => "EC2",
            Self::Gcp => "GCP",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text())
    }
}

/// A host's id and who gave it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Found {
    /// Who gave it.
    pub source: Source,
    /// The id.
    pub id: String,
}

/// What one source answered: an id, or why not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The source.
    pub source: Source,
    /// Its answer.
    pub answer: Result<String, Fault>,
}

impl Report {
    /// What was found, if it was.
    pub fn found(&self) -> Option<Found> {
        let id = self.answer.as_ref().ok()?.clone();
        Some(Found { source: self.source, id })
    }
}

/// What the sources say together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Two clouds say that this is a machine of theirs.
    Ambiguous(Vec<Found>),
    /// This is the host's id.
    Found(Found),
    /// Nobody gave an id.
    Nothing,
}

impl Verdict {
    /// From the answers: Arc's, then the one cloud's.
    pub fn of(reports: &[Report]) -> Self {
        let all = reports.iter().filter_map(Report::found);
        let (arc, clouds): (Vec<_>, Vec<_>) = all.partition(|found| found.source == Source::Arc);
        if clouds.len() > 1 {
            return Self::Ambiguous(clouds);
        }
        arc.into_iter().chain(clouds).next().map_or(Self::Nothing, Self::Found)
    }
}

/// Asks every source. Takes no longer than [`LONGEST`].
pub async fn ask_all() -> [Report; 4] {
    async fn one(source: Source, asking: impl Future<Output = Result<String, Fault>>) -> Report {
        let answer = timeout(LONGEST, asking).await.unwrap_or(Err(Fault::Slow));
        Report { source, answer }
    }
    let (arc, azure, ec2, gcp) = tokio::join!(
        one(Source::Arc, sources::arc()),
        one(Source::Azure, sources::azure()),
        one(Source::Ec2, sources::ec2()),
        one(Source::Gcp, sources::gcp()),
    );
    [arc, azure, ec2, gcp]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(source: Source, id: &str) -> Report {
        let answer = if id.is_empty() { Err(Fault::Absent) } else { Ok(id.to_owned()) };
        Report { source, answer }
    }

    #[test]
    fn arc_comes_before_the_cloud_and_two_clouds_are_ambiguous() {
        for (ids, expected) in [
            (["", "", "", ""], None),
            (["a", "", "", ""], Some("a")),
            (["a", "", "e", ""], Some("a")),
            (["", "", "e", ""], Some("e")),
            (["", "", "", "g"], Some("g")),
        ] {
            let reports: Vec<_> =
                Source::ALL.into_iter().zip(ids).map(|(one, id)| report(one, id)).collect();
            let id = match Verdict::of(&reports) {
                Verdict::Found(found) => Some(found.id),
                Verdict::Nothing => None,
                Verdict::Ambiguous(all) => panic!("{all:?}"),
            };
            assert_eq!(id.as_deref(), expected, "{ids:?}");
        }
        let both = [report(Source::Arc, "a"), report(Source::Azure, "z"), report(Source::Gcp, "g")];
        let Verdict::Ambiguous(all) = Verdict::of(&both) else { panic!("{both:?}") };
        assert_eq!(all.len(), 2);
    }
}
