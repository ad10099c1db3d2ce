//! The audit as files: every change to them is found and named, and damage from a crash is
//! repaired.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jit_agent::{
    disk::audit::{
        Audit, EventCode, Record, Settings, Tip,
        verify::{self, Options, Report},
    },
    rules::ledger::Admission,
};
use jit_proto::GrantId;
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{NOW, grant, later, verified};

const CURRENT: &str = "audit.jsonl";

fn settings(max_size: u64, keep: u32) -> Settings {
    Settings { host: "web-1".into(), max_size, keep }
}

fn open(state: &Path, settings: Settings) -> Audit {
    Audit::open(state, settings, NOW).unwrap()
}

/// An audit with this number of grants, in files of at most this size.
fn written(grants: u8, max_size: u64) -> TempDir {
    let state = tempfile::tempdir().unwrap();
    let mut audit = open(state.path(), settings(max_size, 100));
    for id in 1..=grants {
        let record = Record::accepted(Admission::Active, &verified(&grant(id, &["203.0.113.7"])));
        audit.append(record.by("spiffe://example.org/controller"), later(id.into()));
        audit.sync(later(id.into())).unwrap();
    }
    assert_eq!(audit.problem(), None);
    drop(audit);
    assert_good(state.path());
    state
}

fn report(state: &Path) -> Report {
    verify::verify(state, &Options::default()).unwrap()
}

#[track_caller]
fn assert_good(state: &Path) {
    let report = report(state);
    assert!(report.is_good(), "{report:#?}");
}

fn path(state: &Path, file: &str) -> PathBuf {
    state.join("audit").join(file)
}

fn lines(state: &Path, file: &str) -> Vec<String> {
    let text = fs::read_to_string(path(state, file)).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn put(state: &Path, file: &str, lines: &[String]) {
    fs::write(path(state, file), lines.join("\n") + "\n").unwrap();
}

fn records(state: &Path, file: &str) -> Vec<Value> {
    lines(state, file).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The damaged places that the report names. A whole file is line 0.
fn named(state: &Path) -> Vec<(String, usize)> {
    let findings = report(state).findings;
    findings.into_iter().map(|finding| (finding.file, finding.line.unwrap_or(0))).collect()
}

#[test]
fn every_field_that_explains_an_opening_is_in_its_record() {
    let state = written(1, 1 << 20);
    let record = records(state.path(), CURRENT).pop().unwrap();
    for (field, value) in [
        ("code", "G001"),
        ("event", "grant_admitted"),
        ("by", "spiffe://example.org/controller"),
        ("requester", "ana@example.org"),
        ("why", "disk full"),
        ("not_after", "2026-06-01T00:10:00Z"),
        ("grant", &GrantId([1; 16]).to_string()),
    ] {
        assert_eq!(record[field], value, "{field}");
    }
    assert_eq!(record["sources"][0], "203.0.113.7");
    assert_eq!(record["ports"][0], "22/tcp");
    assert_eq!(record["signers"][0], "prod");
}

/// Every change to every line of each of three files.
#[test]
fn each_line_that_is_touched_is_named() {
    let state = written(14, 3_000);
    let state = state.path();
    let files = report(state).files;
    assert!(files.len() >= 3, "{files:?}");
    for file in &files {
        let good = lines(state, file);
        let bytes = fs::read(path(state, file)).unwrap();
        for index in 0..good.len() {
            let place = |line: usize| (file.clone(), line);
            let line = index + 1;
            let mut deleted = good.clone();
            deleted.remove(index);
            put(state, file, &deleted);
            assert!(named(state).contains(&place(line)), "deleted {file} {line}");
            let mut twice = good.clone();
            twice.insert(index, good[index].clone());
            put(state, file, &twice);
            assert_eq!(named(state), [place(line + 1)], "twice {file} {line}");
            let mut changed = good.clone();
            changed[index] = changed[index].replace("\"event\"", "\"Event\"");
            put(state, file, &changed);
            assert!(named(state).contains(&place(line)), "changed {file} {line}");
            if index > 0 {
                let mut swapped = good.clone();
                swapped.swap(index - 1, index);
                put(state, file, &swapped);
                assert!(named(state).contains(&place(line - 1)), "swapped {file} {line}");
            }
            put(state, file, good.get(..index).unwrap());
            if index == 0 {
                fs::write(path(state, file), "").unwrap();
            }
            assert!(named(state).contains(&place(line)), "cut {file} {line}: {:?}", named(state));
        }
        fs::write(path(state, file), bytes).unwrap();
        assert_good(state);
    }
}

#[test]
fn each_byte_that_is_changed_is_named_by_its_line() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path();
    let mut audit = open(state, settings(1 << 20, 4));
    audit.append(Record::new(EventCode::AgentStopping), NOW);
    drop(audit);
    let good = fs::read(path(state, CURRENT)).unwrap();
    for index in 0..good.len() {
        let line = good[..index].iter().filter(|byte| **byte == b'\n').count() + 1;
        for to in [good[index] ^ 1, b'\n', 0xff] {
            if to == good[index] {
                continue;
            }
            let mut changed = good.clone();
            changed[index] = to;
            fs::write(path(state, CURRENT), changed).unwrap();
            let named = named(state);
            assert!(named.contains(&(CURRENT.into(), line)), "byte {index} {to}: {named:?}");
        }
    }
}

#[test]
fn a_file_that_is_missing_or_exchanged_is_named() {
    let state = written(14, 3_000);
    let state = state.path();
    let files = report(state).files;
    for file in &files {
        let moved = path(state, "moved");
        fs::rename(path(state, file), &moved).unwrap();
        assert!(named(state).contains(&(file.clone(), 0)), "{file}: {:?}", report(state));
        fs::rename(&moved, path(state, file)).unwrap();
    }
    let (first, second) = (path(state, &files[0]), path(state, &files[1]));
    let (one, two) = (fs::read(&first).unwrap(), fs::read(&second).unwrap());
    fs::write(&first, &two).unwrap();
    fs::write(&second, &one).unwrap();
    let found = named(state);
    assert!(found.contains(&(files[0].clone(), 0)) && found.contains(&(files[1].clone(), 0)));
    // An older file in the place of the newest.
    fs::write(&first, &one).unwrap();
    fs::write(&second, &two).unwrap();
    let current = fs::read(path(state, CURRENT)).unwrap();
    fs::write(path(state, CURRENT), &two).unwrap();
    assert!(named(state).contains(&(CURRENT.into(), 0)), "{:?}", report(state));
    fs::write(path(state, CURRENT), current).unwrap();
    assert_good(state);
}

#[test]
fn a_head_that_is_missing_changed_or_older_is_found() {
    let state = written(3, 1 << 20);
    let state = state.path();
    let head = path(state, "audit.head");
    let good = fs::read_to_string(&head).unwrap();
    fs::write(&head, good.replace("web-1", "web-2")).unwrap();
    assert_eq!(named(state), [("audit.head".into(), 1)]);
    fs::write(&head, "").unwrap();
    assert_eq!(named(state), [("audit.head".into(), 1)]);
    fs::remove_file(&head).unwrap();
    assert_eq!(named(state), [("audit.head".into(), 0)]);
    fs::write(&head, good).unwrap();
    fs::remove_file(state.join("host.pub.pem")).unwrap();
    assert!(named(state).contains(&("host.pub.pem".into(), 0)));
}

#[test]
fn a_chain_that_root_wrote_again_is_found_by_a_head_kept_elsewhere() {
    let state = written(6, 1 << 20);
    let kept = report(state.path()).tip.unwrap();
    let key = state.path().join("kept.pub.pem");
    fs::copy(state.path().join("host.pub.pem"), &key).unwrap();
    // Root removes everything, the host's key too, and writes the same number of records again.
    for name in ["audit", "host.key", "host.pub.pem"] {
        let path = state.path().join(name);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    let mut audit = open(state.path(), settings(1 << 20, 4));
    for _ in 0..10 {
        audit.append(Record::new(EventCode::AgentStarted), NOW);
    }
    drop(audit);
    assert_good(state.path());
    let with = |options: Options| verify::verify(state.path(), &options).unwrap();
    let report = with(Options { against: vec![kept], ..Options::default() });
    assert!(!report.is_good(), "{report:#?}");
    assert!(report.findings[0].what.contains("that was kept"));
    assert!(!with(Options { keys: vec![key], ..Options::default() }).is_good());
    let late = Tip { seq: 10_000, ..kept };
    assert!(!with(Options { against: vec![late], ..Options::default() }).is_good());
}

#[test]
fn old_files_go_and_the_rest_is_whole() {
    let state = tempfile::tempdir().unwrap();
    let mut audit = open(state.path(), settings(1_500, 2));
    for number in 0..40 {
        audit.append(Record::new(EventCode::AgentStarted).with("number", number), NOW);
        audit.sync(NOW).unwrap();
    }
    drop(audit);
    assert_good(state.path());
    let files = report(state.path()).files;
    assert_eq!(files.len(), 3, "two full ones and the current one: {files:?}");
    let oldest = path(state.path(), &files[0]);
    fs::remove_file(&oldest).unwrap();
    assert_eq!(named(state.path()), [(files[0].clone(), 0)]);
}

#[test]
fn a_torn_last_line_is_kept_aside_and_the_chain_goes_on() {
    let state = written(3, 1 << 20);
    let state = state.path();
    let whole = fs::read(path(state, CURRENT)).unwrap();
    let next = br#"{"seq":7,"time_ms":1780272"#;
    for length in 1..next.len() {
        let torn = &next[..length];
        fs::write(path(state, CURRENT), [&whole, torn].concat()).unwrap();
        let report = report(state);
        assert!(report.is_good() && report.notes.len() == 1, "{report:#?}");
    }
    drop(open(state, settings(1 << 20, 4)));
    assert_good(state);
    let last = records(state, CURRENT).pop().unwrap();
    assert_eq!((&last["code"], &last["bytes"]), (&"L003".into(), &(next.len() - 1).into()));
    let kept = fs::read(path(state, last["kept_as"].as_str().unwrap())).unwrap();
    assert_eq!(kept, next[..next.len() - 1]);
}

/// An audit that was cut and then continued still shows the cut: the agent itself reports it.
#[test]
fn records_cut_off_before_a_start_stay_reported() {
    for cut in 1..=3 {
        let state = written(4, 1 << 20);
        let state = state.path();
        let all = lines(state, CURRENT);
        put(state, CURRENT, &all[..all.len() - cut]);
        let audit = open(state, settings(1 << 20, 4));
        assert!(audit.damage().is_some_and(|damage| damage.contains("missing")), "{audit:?}");
        drop(audit);
        let line = all.len() - cut + 1;
        assert_eq!(named(state), [(CURRENT.into(), line)]);
        assert_eq!(records(state, CURRENT)[line - 1]["code"], "L004");
    }
}

#[test]
fn an_audit_that_is_gone_at_start_is_reported() {
    for remove in ["audit", "audit/audit.jsonl", "audit/audit.head"] {
        let state = written(2, 1 << 20);
        let path = state.path().join(remove);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        let audit = open(state.path(), settings(1 << 20, 4));
        assert!(audit.damage().is_some(), "{remove}");
        drop(audit);
        assert!(!report(state.path()).is_good(), "{remove}");
    }
}

#[test]
fn an_audit_that_is_renamed_to_the_file_before_the_first_is_gone() {
    let state = written(2, 1 << 20);
    let audit = state.path().join("audit");
    fs::rename(audit.join("audit.jsonl"), audit.join("audit-000000.jsonl")).unwrap();
    assert!(open(state.path(), settings(1 << 20, 4)).damage().is_some());
}

#[test]
fn a_change_to_the_file_while_it_is_written_is_reported() {
    let tamper: [fn(&Path); 3] = [
        |file| fs::remove_file(file).unwrap(),
        |file| {
            let text = fs::read_to_string(file).unwrap();
            let (kept, _) = text.trim_end().rsplit_once('\n').unwrap();
            fs::write(file, format!("{kept}\n")).unwrap();
        },
        |file| {
            let copy = file.with_extension("copy");
            fs::copy(file, &copy).unwrap();
            fs::rename(copy, file).unwrap();
        },
    ];
    for tamper in tamper {
        let state = tempfile::tempdir().unwrap();
        let mut audit = open(state.path(), settings(1 << 20, 4));
        for _ in 0..5 {
            audit.append(Record::new(EventCode::AgentStarted), NOW);
        }
        audit.sync(NOW).unwrap();
        audit.check(NOW);
        assert_eq!(audit.damage(), None);
        tamper(&path(state.path(), CURRENT));
        audit.check(NOW);
        assert!(audit.damage().is_some());
        audit.append(Record::new(EventCode::AgentStopping), NOW);
        audit.sync(NOW).unwrap();
        drop(audit);
        let report = report(state.path());
        assert!(!report.is_good(), "{report:#?}");
        let last = records(state.path(), CURRENT).pop().unwrap();
        assert_eq!(last["event"], "agent_stopping", "the audit continues");
    }
}

#[test]
fn a_disk_that_takes_nothing_delays_nobody_and_the_gap_is_reported() {
    let state = tempfile::tempdir().unwrap();
    // A file where the directory should be: nothing can be opened.
    fs::write(state.path().join("audit"), "").unwrap();
    let mut audit = open(state.path(), settings(1 << 30, 4));
    assert!(audit.problem().is_some());
    let record = || Record::new(EventCode::GrantRevoked).by("test");
    assert!(audit.commit(vec![Record::new(EventCode::GrantAdmitted)], NOW, || ()).is_err());
    for _ in 0..10_000 {
        audit.append(record(), NOW);
    }
    audit.flush(NOW);
    assert!(audit.sync(later(5)).is_err());
    fs::remove_file(state.path().join("audit")).unwrap();
    audit.sync(later(10)).unwrap();
    assert_eq!(audit.problem(), None);
    drop(audit);
    assert_good(state.path());
    let records = records(state.path(), CURRENT);
    let count = |code: &str| records.iter().filter(|record| record["code"] == code).count();
    let gap = records.iter().find(|record| record["code"] == "L005").unwrap();
    let lost = gap["count"].as_u64().unwrap();
    assert!(lost > 0);
    assert_eq!(u64::try_from(count("G006")).unwrap() + lost, 10_000);
    assert_eq!(count("G001"), 0, "a refused grant is not recorded as admitted");
}

#[test]
fn hostile_names_stay_on_their_line_and_read_back() {
    let state = tempfile::tempdir().unwrap();
    let name = "eve\n{\"seq\":1}\r\x1b[2J\u{9b}31m\u{202e}\u{2028}\0\"\\";
    let mut audit = open(state.path(), Settings { host: name.into(), ..settings(1 << 20, 4) });
    let mut hostile = grant(1, &["203.0.113.7"]);
    hostile.requester = name.into();
    hostile.justification = name.into();
    hostile.ticket = name.into();
    hostile.approvers = vec![name.into(); 3];
    let record = Record::accepted(Admission::Active, &verified(&hostile)).by(name);
    audit.commit(vec![record], NOW, || ()).unwrap();
    drop(audit);
    assert_good(state.path());
    for file in [CURRENT, "audit.head"] {
        let text = fs::read_to_string(path(state.path(), file)).unwrap();
        let hostile = text.replace('\n', "").contains(jit_proto::printable::is_hostile);
        assert!(!hostile, "{file}: {text:?}");
    }
    let record = records(state.path(), CURRENT).pop().unwrap();
    for field in ["by", "requester", "why", "ticket"] {
        assert_eq!(record[field], name, "{field}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// An audit is cut anywhere, started again and continued: the chain is whole, or the report
    /// names what is missing.
    #[test]
    fn an_audit_cut_anywhere_and_started_again_hides_nothing(share in 0.0..1.0_f64, more in 0..3_usize) {
        let state = written(5, 1 << 20);
        let state = state.path();
        let bytes = fs::read(path(state, CURRENT)).unwrap();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
            reason = "a place in a small file")]
        let length = (bytes.len() as f64 * share) as usize;
        fs::write(path(state, CURRENT), &bytes[..length]).unwrap();
        let mut audit = open(state, settings(1 << 20, 4));
        for _ in 0..more {
            audit.append(Record::new(EventCode::AgentStarted), NOW);
        }
        drop(audit);
        prop_assert!(!report(state).is_good());
        for record in records(state, CURRENT) {
            prop_assert!(record["seq"].is_u64());
        }
    }
}
