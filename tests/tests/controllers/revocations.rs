//! Signed revocations: any controller delivers them, and only the key decides.

use std::{
    fs,
    time::{Duration, Instant},
};

use jit_proto::v1;
use jit_tests::agent::{CLIENT, TO_CLIENT};
use prost::Message as _;
use rustix::process::Signal;

use crate::controlled::{Controlled, PORT, Said};

const LONG: Duration = Duration::from_secs(600);
const SECTION: &str =
    "[[signer]]\nid = \"revoker\"\npublic_key = \"revoker.pub.pem\"\nsigns = [\"revocation\"]\n";

/// An agent that trusts `revoker.key` for revocations alone.
pub(crate) fn controlled() -> Controlled {
    let mut controlled = Controlled::new();
    controlled.bare_jitctl("keygen --algorithm ed25519 --out revoker").good();
    let config = fs::read_to_string(controlled.site.config()).unwrap();
    controlled.site.write_config(&(config + SECTION));
    controlled.site.end(Signal::TERM);
    controlled.site.start();
    controlled
}

/// `jitctl` as a controller that may only grant (`second`), or only read (`reader`).
fn as_controller(controlled: &Controlled, name: &str, arguments: &str) -> Said {
    let [address, _] = TO_CLIENT;
    let files = format!("--ca pki/ca.pem --cert pki/{name}.pem --key pki/{name}.key");
    controlled.bare_jitctl(&format!("--agent {address}:{PORT} {files} {arguments}"))
}

fn sign(controlled: &Controlled, more: &str) {
    let sign = "revoke --sign revoker.key --every-host --reason stolen --author bo@example.org";
    controlled.bare_jitctl(&format!("{sign} {more}")).good();
}

#[test]
fn a_controller_that_may_only_grant_delivers_what_a_key_revokes() {
    let mut controlled = controlled();
    let site = &controlled.site;
    // Two that were signed before; one of them comes late.
    let [early, late] = [(); 2].map(|()| site.envelope(&CLIENT, LONG));
    fs::write(site.path("late"), late.encode_to_vec()).unwrap();
    site.push(early.clone()).unwrap();
    site.assert_open_to_the_client_alone();
    // Without the signature it may not, and the key itself opens nothing.
    let unsigned = as_controller(&controlled, "second", "revoke --all --yes --reason stolen");
    unsigned.fails(77, "refused: not_permitted: ");
    let grant = "grant --signing-key revoker.key --host test-host --source 198.51.100.2 --port 22 \
                 --for 1m --why test";
    as_controller(&controlled, "second", grant).fails(77, "refused: unknown_key: ");
    site.assert_open_to_the_client_alone();
    sign(&controlled, "--all --yes --out everything");
    let began = Instant::now();
    let said = as_controller(&controlled, "second", "push everything").good();
    assert!(said.contains("1 grant ended"), "{said}");
    let closed = loop {
        let asked = began.elapsed();
        if !controlled.site.client_opens(0, 22) {
            break asked;
        }
    };
    println!("closed {closed:?} after the start of jitctl");
    assert!(closed < Duration::from_secs(1), "{closed:?}");
    controlled.site.assert_closed_to_all();
    // Delivered again, by one that may only read, and after a restart: nothing changes.
    for restarted in [false, true] {
        if restarted {
            controlled.site.end(Signal::KILL);
            controlled.site.start();
        }
        let again = as_controller(&controlled, "reader", "push everything --json").good();
        let again: serde_json::Value = serde_json::from_str(&again).unwrap();
        assert_eq!((&again["accepted"], &again["reason"]), (&true.into(), &"known".into()));
        as_controller(&controlled, "second", "push late").fails(77, "refused: revoked: ");
        let replay = controlled.site.push(early.clone()).unwrap_err();
        assert!(replay.message().starts_with("revoked"), "{replay}");
        controlled.site.assert_closed_to_all();
    }
    let site = &controlled.site;
    fs::write(site.path("fresh"), site.envelope(&CLIENT, LONG).encode_to_vec()).unwrap();
    as_controller(&controlled, "second", "push fresh").good();
    site.assert_open_to_the_client_alone();
    // What is signed after it lives on, however often the revocation comes.
    as_controller(&controlled, "second", "push everything").good();
    site.assert_open_to_the_client_alone();
}

#[test]
fn a_good_revocation_in_a_batch_is_not_held_up_by_what_is_bad_beside_it() {
    let controlled = controlled();
    let site = &controlled.site;
    site.admit(&CLIENT, LONG);
    sign(&controlled, "--requester ana@example.org --out ana");
    let good = v1::Envelope::decode(&*fs::read(site.path("ana")).unwrap()).unwrap();
    let mut payload = good.payload.to_vec();
    *payload.last_mut().unwrap() ^= 1;
    let spoilt = v1::Envelope { payload: payload.into(), ..good };
    fs::write(site.path("spoilt"), spoilt.encode_to_vec()).unwrap();
    let text = v1::Envelope { payload_type: "text/plain".into(), ..spoilt };
    fs::write(site.path("text"), text.encode_to_vec()).unwrap();
    let said = as_controller(&controlled, "second", "push spoilt text ana");
    assert_eq!(said.exit, Some(77), "{said:?}");
    let lines: Vec<_> = said.out.lines().collect();
    let [first, second, third] = lines[..] else { panic!("{said:?}") };
    assert!(first.contains("bad_signature") && second.contains("bad_type"), "{said:?}");
    assert!(third.contains("ok: ") && third.contains("1 grant"), "{said:?}");
    site.assert_closed_to_all();
}

#[test]
fn the_check_names_the_key_that_closes() {
    let controlled = controlled();
    let site = &controlled.site;
    let text = String::from_utf8(site.run(&["check"]).stdout).unwrap();
    let line = text.lines().find(|line| line.contains("\"revoker\"")).unwrap();
    assert!(line.contains("signs revocation,") && !line.contains("up to"), "{line}");
}
