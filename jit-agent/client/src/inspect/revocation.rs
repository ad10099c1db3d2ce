//! What a signed revocation says, and why every host would refuse it.

use jit_proto::{GrantId, v1};

use super::{id, joined, texts, time};
use crate::text::printable;

pub(super) fn wrong(one: &v1::Revocation) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |is_wrong: bool, why: &str| {
        if is_wrong {
            wrong.push(why.to_owned());
        }
    };
    check(one.hosts.is_empty() && !one.every_host, "it names no host");
    check(!one.hosts.is_empty() && one.every_host, "it names hosts, and every host");
    let kinds = [!one.grant_ids.is_empty(), !one.requester.is_empty(), one.all];
    check(
        kinds.into_iter().filter(|kind| *kind).count() != 1,
        "it does not name exactly one of ids, a requester, and all",
    );
    check(
        one.grant_ids.iter().any(|id| GrantId::from_bytes(id).is_none_or(|id| id.0 == [0; 16])),
        "one of its ids has not 16 bytes, or is zero",
    );
    check(one.author.is_empty(), "it names no author");
    check(one.reason.is_empty(), "it gives no reason");
    check(one.issued_before_ms <= 0, "it has no issued_before");
    check(one.keep_until_ms <= one.issued_before_ms, "its keep_until is not later");
    wrong
}

pub(super) fn fields(one: &v1::Revocation) -> Vec<(&'static str, String)> {
    let whose = if one.all {
        "everything".to_owned()
    } else if one.requester.is_empty() {
        joined(one.grant_ids.iter().map(|bytes| id(bytes)))
    } else {
        format!("grants of {}", printable(&one.requester))
    };
    let hosts = if one.every_host { "every host".to_owned() } else { texts(&one.hosts) };
    let mut fields = vec![("revokes", whose), ("hosts", hosts)];
    let until = time(one.issued_before_ms);
    fields.push(match one.grant_ids.is_empty() {
        true => ("issued", format!("until {until}, this moment included")),
        false => ("issued", format!("at any time; signed at {until}")),
    });
    if one.cut {
        fields.push(("sessions", "end, too".to_owned()));
    }
    fields.extend([
        ("author", printable(&one.author)),
        ("reason", printable(&one.reason)),
        ("deliver", format!("until {}", time(one.keep_until_ms))),
    ]);
    fields
}
