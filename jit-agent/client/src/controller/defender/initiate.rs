//! What somebody asks for: the body of `initiate`.

use jiff::Timestamp;
use jit_proto::SourcePrefix;
use serde_json::Value;

use super::{
    policy::{Allowed, allowed, sources},
    read::{At, Mistake},
};

/// The most machines of a request.
const MAX_MACHINES: usize = 500;
/// The most ports of a machine.
const MAX_PORTS: usize = 64;

/// A request, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initiate {
    /// The machines.
    pub machines: Vec<InitiateMachine>,
    /// Why; empty: it was not said.
    pub justification: String,
}

/// A machine of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitiateMachine {
    /// Its id in Azure.
    pub id: String,
    /// The ports.
    pub ports: Vec<InitiatePort>,
}

/// A port of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitiatePort {
    /// Its number.
    pub number: u16,
    /// For whom; `None`: for the caller.
    pub allowed: Option<Allowed>,
    /// When it ends, milliseconds since the Unix epoch.
    pub ends_ms: i64,
}

impl Initiate {
    /// Reads what was sent.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn read(value: &Value) -> Result<Self, Mistake> {
        let top = At::top(value);
        let listed = top.needed("virtualMachines")?;
        let machines = listed.items()?;
        if machines.is_empty() {
            return Err(listed.wrong("name at least one machine"));
        }
        if machines.len() > MAX_MACHINES {
            let why = format!("{} machines; at most {MAX_MACHINES}", machines.len());
            return Err(listed.wrong(why));
        }
        Ok(Self {
            machines: machines.iter().map(machine).collect::<Result<_, _>>()?,
            justification: top.text_of("justification")?.trim().to_owned(),
        })
    }
}

impl InitiatePort {
    /// Who is let in; `caller`: if nothing was said.
    pub fn sources(&self, caller: SourcePrefix) -> Vec<SourcePrefix> {
        self.allowed.as_ref().map_or_else(|| vec![caller], |allowed| sources(&allowed.texts))
    }
}

fn machine(at: &At<'_>) -> Result<InitiateMachine, Mistake> {
    let listed = at.needed("ports")?;
    let ports = listed.items()?;
    if ports.is_empty() {
        return Err(listed.wrong("name at least one port"));
    }
    if ports.len() > MAX_PORTS {
        return Err(listed.wrong(format!("{} ports; at most {MAX_PORTS}", ports.len())));
    }
    let id = at.needed("id")?.text()?.trim_end_matches('/').to_owned();
    Ok(InitiateMachine { id, ports: ports.iter().map(port).collect::<Result<_, _>>()? })
}

fn port(at: &At<'_>) -> Result<InitiatePort, Mistake> {
    let number = at.needed("number")?.port()?;
    let ends = at.needed("endTimeUtc")?;
    let ends_ms = moment(ends.text()?)
        .ok_or_else(|| ends.wrong("it is not a time such as 2027-03-01T10:00:00Z (RFC 3339)"))?;
    let mut tags = Vec::new();
    let allowed = allowed(at, &mut tags)?;
    if let Some((place, tag)) = tags.into_iter().next() {
        let why = format!("{tag:?} is not an address or a prefix");
        return Err(Mistake { place, why });
    }
    Ok(InitiatePort { number, allowed, ends_ms })
}

/// A time with any number of digits after the second; without a zone it is in UTC, as the name
/// says.
fn moment(text: &str) -> Option<i64> {
    let text = text.trim();
    let time = text.parse::<Timestamp>().or_else(|_| format!("{text}Z").parse::<Timestamp>());
    Some(time.ok()?.as_millisecond())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_read_as_clients_write_them() {
        for text in [
            "2027-03-01T10:00:00Z",
            "2027-03-01T10:00:00.0000000Z",
            "2027-03-01T10:00:00.0000000",
            "2027-03-01T11:00:00+01:00",
            "2027-03-01 10:00:00",
        ] {
            assert_eq!(moment(text), Some(1_803_895_200_000), "{text}");
        }
        assert_eq!(moment("tomorrow"), None);
    }

    #[test]
    fn a_request_without_a_prefix_is_for_the_caller() {
        let body = json!({"VirtualMachines": [{"Id": "/a/vm1", "Ports": [
            {"Number": "3389", "EndTimeUtc": "2027-03-01T10:00:00.1234567Z"}]}]});
        let read = Initiate::read(&body).unwrap();
        let caller = "203.0.113.7".parse().unwrap();
        assert_eq!(read.machines[0].ports[0].sources(caller), [caller]);
        assert_eq!(read.machines[0].ports[0].ends_ms % 1000, 123);
    }

    #[test]
    fn what_is_too_many_is_refused() {
        let port = json!({"number": 22, "endTimeUtc": "2027-03-01T10:00:00Z"});
        let machine = |ports: usize| json!({"id": "/a/vm1", "ports": vec![port.clone(); ports]});
        let body = |count: usize, ports| json!({"virtualMachines": vec![machine(ports); count]});
        assert!(Initiate::read(&body(MAX_MACHINES, 1)).is_ok());
        assert!(Initiate::read(&body(1, MAX_PORTS)).is_ok());
        for (body, place) in [
            (body(MAX_MACHINES + 1, 1), "virtualMachines"),
            (body(1, MAX_PORTS + 1), "virtualMachines[0].ports"),
        ] {
            let mistake = Initiate::read(&body).unwrap_err();
            assert_eq!(mistake.place, place);
            assert!(mistake.why.contains("at most"), "{}", mistake.why);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (body, place) in [
            (json!({}), "the body"),
            (json!({"virtualMachines": []}), "virtualMachines"),
            (json!({"virtualMachines": [{"id": "/a", "ports": []}]}), "virtualMachines[0].ports"),
            (
                json!({"virtualMachines": [{"id": "/a", "ports": [{"number": 1}]}]}),
                "virtualMachines[0].ports[0]",
            ),
            (json!([]), "the body"),
        ] {
            assert_eq!(Initiate::read(&body).unwrap_err().place, place, "{body}");
        }
    }
}
