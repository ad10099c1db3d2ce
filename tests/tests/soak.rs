//! A soak: for minutes or an hour, 1,000 grants a second are pushed and end by themselves, while a
//! stranger sends 10,000 SYNs a second. Afterwards the agent takes what it took after the first part:
//! memory, descriptors, entries in the kernel and files on the disk stay flat.
//!
//! The test run has five minutes. `JIT_TEST_SOAK=3600` in the environment is an hour, in seconds.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that meets the unexpected panics"
)]

use std::{
    env, fs,
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData};
use jit_common::{ABI_VERSION, GrantEntry, HostKey, map};
use jit_proto::v1;
use jit_tests::{
    agent::{Site, TO_STRANGER},
    frames::{Ipv4, Macs, Tcp},
    process::{descriptors, memory},
    random::Random,
    raw::Wire,
};

/// Grants a second, and how long each of them lasts.
const GRANTS: u32 = 1_000;
const LASTS: Duration = Duration::from_secs(10);
/// SYNs a second, and how many are sent in one go.
const SYNS: u32 = 10_000;
const BURST: u32 = 100;
/// Sources of the grants: they come again when all were used.
const SOURCES: u32 = 1 << 20;
/// At least this part of the load must have been there, or nothing was proven. A slow machine gets
/// twice the time for it.
const LOADED: f64 = 0.5;
/// What may be more at the end than after the first part.
const MORE_KIB: u64 = 6 * 1024;
const MORE_DESCRIPTORS: usize = 8;
const MORE_DISK: u64 = 4 << 20;
/// Longest time until the last grants have left the tables.
const CLEARED: Duration = Duration::from_secs(30);

/// What the agent takes at a moment.
#[derive(Clone, Copy, Debug)]
struct Usage {
    resident_kib: u64,
    own_kib: u64,
    descriptors: usize,
    entries: usize,
    disk: u64,
}

impl Usage {
    fn of(site: &Site) -> Self {
        let agent = site.processes();
        let memory = memory(&agent);
        Self {
            resident_kib: memory.total,
            own_kib: memory.anonymous,
            descriptors: descriptors(&agent),
            entries: entries(site),
            disk: bytes_below(&site.path("state")),
        }
    }
}

/// A stranger who sends SYNs from ever other addresses, until it is dropped.
struct Stranger {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Stranger {
    fn begin(site: &Site) -> Self {
        let macs = Macs { destination: site.host.mac("s0"), ..Macs::default() };
        let index = site.stranger.index("p0");
        let to: Ipv4Addr = TO_STRANGER[0].parse().unwrap();
        let frame = Ipv4::new(to, to).tcp(&Tcp::syn(22)).between(macs, &[]);
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = site.stranger.spawn(move || {
            let (wire, mut random) = (Wire::open(index), Random::new(15));
            let mut frames = vec![frame; usize::try_from(BURST).unwrap()];
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                for frame in &mut frames {
                    // 198.18.0.0/15 (RFC 2544). Nobody looks at the checksum of a packet that is
                    // dropped at the gate.
                    let host = u32::try_from(random.below(1 << 17)).unwrap();
                    frame[26..30].copy_from_slice(&(0xc612_0000 + host).to_be_bytes());
                }
                wire.send_all(&frames);
                counted.fetch_add(u64::from(BURST), Ordering::Relaxed);
                next += Duration::from_secs(1) / (SYNS / BURST);
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    /// Ends it, and returns the number of SYNs that were sent.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn nothing_grows_while_grants_come_and_go() {
    let seconds = env::var("JIT_TEST_SOAK").map_or(300, |seconds| seconds.parse().unwrap());
    let span = Duration::from_secs(seconds);
    let mut site = Site::new();
    site.configure("[audit]\nmax_size = \"1MiB\"\nkeep = 4\n");
    site.start();
    let stranger = Stranger::begin(&site);

    let began = Instant::now();
    let (mut pushed, mut late, mut seen) = (0_u32, 0_u32, Vec::new());
    let mut next = began;
    let part = |made: f64, wanted: u32| made / (f64::from(wanted) * span.as_secs_f64());
    while began.elapsed() < span
        || part(f64::from(pushed), GRANTS) <= LOADED && began.elapsed() < 2 * span
    {
        if push(&site, pushed) {
            pushed += GRANTS;
        } else {
            late += 1;
        }
        seen.push(Usage::of(&site));
        assert!(!site.stranger_opens(0, 22), "a stranger got in after {:?}", began.elapsed());
        next += Duration::from_secs(1);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let took = began.elapsed();
    let sent = stranger.end();

    println!(
        "{pushed} grants and {sent} SYNs in {took:?}; {late} pushes without an answer in time"
    );
    for (second, usage) in seen.iter().enumerate().step_by((seen.len() / 12).max(1)) {
        println!("{second:>5} {usage:?}");
    }
    let (grants, syns) = (f64::from(pushed), sent.to_string().parse::<f64>().unwrap());
    assert!(part(grants, GRANTS) > LOADED, "{pushed} grants in {took:?}: too slow a machine");
    assert!(part(syns, SYNS) > LOADED, "{sent} SYNs in {took:?}: too slow a machine");
    assert_flat(&seen);
    assert_cleared(&site);
    assert_all_were_dropped(&site, sent);
    let log = site.log();
    assert!(!log.contains("panicked"), "{log}");
}

/// Pushes the grants of a second. Their sources are numbered from `first` on. Returns whether the answer
/// came in time: on a machine whose disk is busy with other work one may not.
fn push(site: &Site, first: u32) -> bool {
    let source = |number: u32| {
        let [_, high, middle, low] = (number % SOURCES).to_be_bytes();
        format!("10.{high}.{middle}.{low}")
    };
    let signed = (first..first + GRANTS).map(|number| site.envelope(&[&source(number)], LASTS));
    let request = v1::PushBatchRequest { envelopes: signed.collect(), revoke_ids: Vec::new() };
    let answer = match site.call(async |mut client| client.push_batch(request).await) {
        Err(status) if status.message().contains("Timeout") => return false,
        answer => answer.unwrap(),
    };
    for outcome in answer.into_inner().outcomes {
        assert!(outcome.accepted, "{outcome:?}\n{}", site.log());
    }
    true
}

/// Compares the largest of the second quarter with the largest of the last one. Before that the
/// tables fill, and the allocator finds its size.
#[track_caller]
fn assert_flat(seen: &[Usage]) {
    let quarter = seen.len() / 4;
    let (early, late) = (&seen[quarter..2 * quarter], &seen[3 * quarter..]);
    let largest =
        |part: &[Usage], figure: fn(&Usage) -> u64| part.iter().map(figure).max().unwrap();
    let both = |figure: fn(&Usage) -> u64| (largest(early, figure), largest(late, figure));
    let (before, after) = both(|usage| usage.resident_kib);
    assert!(after <= before + MORE_KIB, "resident memory, KiB: {before}, then {after}");
    let (before, after) = both(|usage| usage.own_kib);
    assert!(after <= before + MORE_KIB, "memory of its own, KiB: {before}, then {after}");
    let (before, after) = both(|usage| usage.disk);
    assert!(after <= before + MORE_DISK, "bytes of state: {before}, then {after}");
    let most = |part: &[Usage]| part.iter().map(|usage| usage.descriptors).max().unwrap();
    let (before, after) = (most(early), most(late));
    assert!(after <= before + MORE_DESCRIPTORS, "descriptors: {before}, then {after}");
    let live = usize::try_from(GRANTS).unwrap() * usize::try_from(LASTS.as_secs() + 5).unwrap();
    let most = late.iter().map(|usage| usage.entries).max().unwrap();
    assert!(most <= live, "{most} entries in the kernel, at most {live} were expected");
}

/// Fails unless the kernel's table is soon empty.
#[track_caller]
fn assert_cleared(site: &Site) {
    let began = Instant::now();
    while entries(site) > 0 {
        assert!(began.elapsed() < CLEARED, "{} entries after {CLEARED:?}", entries(site));
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(site.status().0["capacity"]["host_entries"], 0);
}

/// Fails unless the kernel counted what was sent: a frame may find no place on the wire, and a try of
/// the test itself counts with its repetitions.
#[track_caller]
fn assert_all_were_dropped(site: &Site, sent: u64) {
    let status = site.status().0;
    let dropped = status["dropped"]["by_reason"]["denied"].as_u64();
    let dropped = dropped.unwrap_or_else(|| panic!("no number of dropped packets: {status}"));
    assert!(dropped >= sent / 100 * 99, "{sent} sent, {dropped} dropped");
}

/// Entries of single addresses in the kernel.
fn entries(site: &Site) -> usize {
    let pin = site.pins().join(format!("v{ABI_VERSION}/maps/{}", map::HOST_GRANTS));
    let table = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let table: HashMap<_, HostKey, GrantEntry> = HashMap::try_from(table).unwrap();
    // A key that goes away while the table is read is left out.
    table.keys().flatten().count()
}

fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |path: &Path| match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => bytes_below(path),
        Ok(found) => found.len(),
        // A file of the audit that was just removed.
        Err(_) => 0,
    };
    entries.map(|entry| size(&entry.path())).sum()
}
