//! Desired and actual entries, the summary of the tables, and the database.

use std::hint::black_box;

use jit_agent::{
    disk::store::{Store, StoredGrant, StoredProgress, Transaction},
    kernel::datapath::summary::Summary,
    rules::{
        clock::BootNanos,
        reconcile::{Access, Entries, Entry, EntryKey, plan},
    },
};
use jit_common::{Address, PortKey, Protocol, SummarySize};
use jit_proto::{GrantId, SourcePrefix, WallTime, v1};
use jit_tests::figures::size;

use crate::Bench;

const SSH: PortKey = PortKey { protocol: Protocol::Tcp, port: 22 };
const SOME: u32 = 10_000;
const MANY: u32 = 100_000;
/// `[limits] hosts` where the file does not set it.
const HOSTS: u32 = 131_072;

pub(crate) fn measure(bench: &mut Bench) {
    reconcile(bench);
    summary(bench);
    store(bench);
}

fn reconcile(bench: &mut Bench) {
    let access = |deadline| Access { deadline: BootNanos(deadline), cut: false, slot: 1 };
    let entry = |deadline| Entry { unlimited: access(deadline), limited: Access::NONE };
    let actual: Entries = (0..SOME).map(|number| (key(number), entry(1_000))).collect();
    bench.row("reconcile: one new entry beside 10,000", || {
        let new = [(key(SOME), Some(entry(2_000)))];
        black_box(plan(black_box(new), &actual));
    });
    bench.row("reconcile: all of 10,000, half of them ended", || {
        let desired =
            (0..SOME).map(|number| (key(number), (number % 2 == 0).then(|| entry(1_000))));
        black_box(plan(desired, &actual));
    });
}

fn summary(bench: &mut Bench) {
    let size = SummarySize::for_grants(HOSTS, HOSTS);
    let keys: Vec<_> = (0..MANY).map(key).collect();
    bench.row("summary: made anew from 100,000 entries", || {
        let mut summary = Summary::empty(size);
        for key in &keys {
            summary.cover(key);
        }
        black_box(summary);
    });
}

/// One synced transaction, as for one accepted grant.
fn store(bench: &mut Bench) {
    for stored in [0, SOME] {
        let stored = size(stored, stored.min(500));
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(&directory.path().join("state"), WallTime(1)).unwrap();
        store.commit(&accepted(0..stored)).unwrap();
        let mut next = stored;
        bench.row(&format!("store: one grant, synced, {stored} are stored"), || {
            store.commit(&accepted(next..next + 1)).unwrap();
            next += 1;
        });
    }
}

/// What is written for these grants. The envelope is as large as that of a common grant.
fn accepted(numbers: std::ops::Range<u32>) -> Transaction {
    let envelope = v1::Envelope {
        payload_type: jit_proto::payload_type::GRANT_TYPE.into(),
        payload: vec![0x55; 128].into(),
        signatures: vec![v1::Signature {
            key_id: "test".into(),
            signature: vec![0x55; 64].into(),
            ..v1::Signature::default()
        }],
    };
    let id = |number: u32| GrantId(u128::from(number).to_be_bytes());
    let progress = StoredProgress { deadline: 1, began: true, ..StoredProgress::default() };
    Transaction {
        put: numbers
            .clone()
            .map(|number| (id(number), StoredGrant::from(envelope.clone())))
            .collect(),
        progress: numbers.map(|number| (id(number), progress.clone())).collect(),
        floor: Some(WallTime(1)),
        ..Transaction::default()
    }
}

fn key(number: u32) -> EntryKey {
    let address = Address::v4((0x0b00_0000 + number).to_be_bytes());
    EntryKey { port: SSH, source: SourcePrefix::new(address, 32).unwrap() }
}
