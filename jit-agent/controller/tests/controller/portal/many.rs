//! Pages with 20,000 requests and 5,000 hosts: how much each weighs. How long each takes, a bench measures.

use jit_controller::{
    audit::{self, Code, Record},
    clock::now_ms,
    model::{
        Host, Needs, Outcome, Proposal, State, Verdict,
        host::{Condition, Observed, ObservedPort},
    },
    store::{Request, hosts, requests},
};
use serde_json::json;

use super::Browser;
use crate::{api::Site, databases::Database};

const HOSTS: usize = 5_000;
const REQUESTS: usize = 20_000;
/// The most bytes of a page with all of its files, without a cache.
const HEAVIEST: usize = 60 * 1024;

on_each_database! {
    pages_are_light_with_many_requests_and_hosts,
}

async fn pages_are_light_with_many_requests_and_hosts(database: Database) {
    let site = Site::new(database).await;
    let last = filled(&site).await;
    for account in ["bo", "root"] {
        let browser = Browser::of(&site, account).await;
        for path in [
            "/",
            "/?q=host-04",
            "/?q=env%3Dprod",
            "/hosts/found?q=nothing-has-this-name",
            "/open?host=host-00001",
            "/requests",
            "/requests?which=all",
            "/requests?which=all&state=pending",
            "/requests?which=decide",
            &format!("/requests/{last}"),
            "/hosts",
            "/hosts?q=env%3Dtest&condition=enforcing",
            "/hosts?q=nothing-has-this-name",
            "/host/host-00001",
            "/policies",
            "/rules",
            &format!("/audit?request={last}"),
            "/audit?who=nobody%40example.org",
            "/access",
            "/health",
        ] {
            // The last three are for auditors and administrators.
            if account != "root"
                && ["/audit?who", "/access", "/health"].iter().any(|one| path.starts_with(one))
            {
                continue;
            }
            let page = browser.get(path).await.ok();
            let mut weight = page.text.len();
            for (attribute, end) in [("href=\"/static/", '"'), ("src=\"/static/", '"')] {
                for part in page.text.split(attribute).skip(1) {
                    let file = format!("/static/{}", part.split(end).next().unwrap());
                    let call = browser.call(reqwest::Method::GET, &file);
                    let call = call.header("accept-encoding", "gzip").send().await.unwrap();
                    weight += call.bytes().await.unwrap().len();
                }
            }
            println!("{account} {path}: {weight} bytes");
            assert!(weight <= HEAVIEST, "{path}: {weight} bytes");
        }
    }
}

/// Fills the database; returns the id of the last request.
async fn filled(site: &Site) -> String {
    let now = now_ms();
    let observed = Observed {
        condition: Condition::Enforcing,
        ports: vec![ObservedPort {
            port: "22/tcp".into(),
            mode: "enforce".into(),
            max_duration_ms: 7_200_000,
            approvals: 1,
            exemptions: Vec::new(),
        }],
        ..Observed::default()
    };
    let mut tx = site.store().begin().await.unwrap();
    for number in 0..HOSTS {
        let env = if number % 2 == 0 { "prod" } else { "test" };
        let host = Host {
            id: format!("host-{number:05}"),
            address: format!("host-{number:05}.example.org:7443"),
            labels: [("env".to_owned(), env.to_owned())].into(),
            ..Host::default()
        };
        hosts::put(&mut tx, &host).await.unwrap();
        hosts::set_observed(&mut tx, &host.id, &observed).await.unwrap();
    }
    let mut last = String::new();
    for number in 0..REQUESTS {
        let created_ms = now - 86_400_000 + i64::try_from(number).unwrap();
        let proposal = Proposal {
            id: ulid::Ulid::from_parts(u64::try_from(created_ms).unwrap(), 1).to_string(),
            requester: if number % 3 == 0 { "ana" } else { "cy" }.to_owned() + "@example.org",
            hosts: vec![format!("host-{:05}", number % HOSTS)],
            sources: vec!["203.0.113.7".parse().unwrap()],
            ports: vec!["22".parse().unwrap()],
            duration_ms: 3_600_000,
            start_ms: None,
            reason: format!("disk full for the {number}th time"),
            ticket: String::new(),
            sessions: None,
            max_connections: 0,
            replaces: None,
            created_ms,
            approve_until_ms: now + 3_600_000,
        };
        last.clone_from(&proposal.id);
        let request = Request {
            hash: proposal.hash(),
            account: "ana".into(),
            idempotency_key: proposal.id.clone(),
            state: if number % 100 == 99 { State::Pending } else { State::Ended },
            verdict: Verdict {
                rules_version: 1,
                outcome: Outcome::Manual,
                needs: Needs([("sre".to_owned(), 1)].into()),
                max_duration_ms: None,
                rules: Vec::new(),
                denied: Vec::new(),
                escalate: None,
            },
            why: String::new(),
            escalate_ms: 0,
            ends_ms: 0,
            replaced_by: String::new(),
            revision: 1,
            proposal,
        };
        requests::insert(&mut tx, &request).await.unwrap();
    }
    let record = Record::new(Code::Submitted, &last, "ana@example.org", json!({}));
    audit::append(&mut tx, now, &record).await.unwrap();
    tx.commit().await.unwrap();
    last
}
