//! Whether a grant only narrows another one: then nobody must agree to it, for it only closes.

use jit_proto::{GrantId, PortRange, SourcePrefix, v1};
use prost::Message as _;

use super::limits::is_within;

/// Checks that `new` ends `old` and opens nothing that `old` does not. Otherwise it says what is wider.
pub(super) fn narrows(old: &[u8], new: &[u8]) -> Result<(), String> {
    let decode = |bytes| v1::Grant::decode(bytes).map_err(|_| "it is no grant".to_owned());
    let (old, new) = (decode(old)?, decode(new)?);
    let fail = |what: &str| Err(format!("{what} than the grant that it replaces"));
    if new.replaces != old.id || GrantId::from_bytes(&old.id).is_none() {
        return Err("it does not replace the grant that it is to narrow".to_owned());
    }
    if !new.hosts.iter().all(|host| old.hosts.contains(host)) {
        return fail("it names more hosts");
    }
    let sources = |grant: &v1::Grant| -> Result<Vec<SourcePrefix>, String> {
        let read = grant.sources.iter().map(SourcePrefix::try_from);
        read.collect::<Result<_, _>>().map_err(|error| error.to_string())
    };
    let (before, after) = (sources(&old)?, sources(&new)?);
    if !after.iter().all(|source| before.iter().any(|wide| wide.contains(source))) {
        return fail("it lets in more sources");
    }
    let ports = |grant: &v1::Grant| -> Result<Vec<PortRange>, String> {
        grant.ports.iter().map(PortRange::try_from).collect()
    };
    let (before, after) = (ports(&old)?, ports(&new)?);
    if !after.iter().all(|port| is_within(*port, &before)) {
        return fail("it opens more ports");
    }
    if new.not_before_ms < old.not_before_ms {
        return fail("it begins earlier");
    }
    if new.not_after_ms > old.not_after_ms {
        return fail("it ends later");
    }
    if old.sessions() == v1::Sessions::Cut && new.sessions() != v1::Sessions::Cut {
        return fail("its sessions live longer");
    }
    if old.max_connections != 0 && !(1..=old.max_connections).contains(&new.max_connections) {
        return fail("it lets in more connections");
    }
    if new.requester != old.requester {
        return Err("it is of another requester than the grant that it replaces".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Proposal, grant, proposal::tests::ssh};

    const NOW: i64 = 1_803_888_060_000;

    fn old() -> v1::Grant {
        let wide = Proposal {
            sources: vec!["203.0.113.0/24".parse().unwrap()],
            ports: vec!["20-30".parse().unwrap()],
            hosts: vec!["web-1".into(), "web-2".into()],
            max_connections: 5,
            ..ssh()
        };
        let part = grant::parts(&wide, &[], &[], NOW).unwrap().remove(0);
        v1::Grant::decode(part.payload.as_slice()).unwrap()
    }

    fn new() -> v1::Grant {
        v1::Grant {
            id: vec![7; 16].into(),
            replaces: old().id,
            issued_at_ms: NOW + 1000,
            not_before_ms: NOW + 1000,
            not_after_ms: NOW + 2000,
            ..old()
        }
    }

    #[test]
    fn less_of_everything_is_narrower() {
        let check = |new: &v1::Grant| narrows(&old().encode_to_vec(), &new.encode_to_vec());
        assert_eq!(check(&new()), Ok(()));
        let mut less = new();
        less.hosts.pop();
        less.sources[0].prefix_length = 32;
        less.ports[0].first = 22;
        less.max_connections = 1;
        less.sessions = v1::Sessions::Cut.into();
        assert_eq!(check(&less), Ok(()));
    }

    #[test]
    fn more_of_anything_is_refused() {
        type Change = fn(&mut v1::Grant);
        let changes: [(&str, Change); 11] = [
            ("replace", |g| g.replaces = vec![8; 16].into()),
            ("hosts", |g| g.hosts.push("db-1".into())),
            ("sources", |g| g.sources[0].address = vec![203, 0, 114, 0].into()),
            ("sources", |g| {
                g.sources[0] =
                    v1::Source { address: vec![203, 0, 112, 0].into(), prefix_length: 23 };
            }),
            ("ports", |g| g.ports[0].last = 31),
            ("ports", |g| g.ports[0].set_protocol(v1::Protocol::Udp)),
            ("earlier", |g| g.not_before_ms = NOW - 1),
            ("later", |g| g.not_after_ms = NOW + 3_600_001),
            ("connections", |g| g.max_connections = 6),
            ("connections", |g| g.max_connections = 0),
            ("requester", |g| g.requester = "bo".into()),
        ];
        for (says, change) in changes {
            let mut wider = new();
            change(&mut wider);
            let error = narrows(&old().encode_to_vec(), &wider.encode_to_vec()).unwrap_err();
            assert!(error.contains(says), "{says}: {error}");
        }
        let cut = v1::Grant { sessions: v1::Sessions::Cut.into(), ..old() };
        let error = narrows(&cut.encode_to_vec(), &new().encode_to_vec()).unwrap_err();
        assert!(error.contains("sessions"), "{error}");
    }
}
