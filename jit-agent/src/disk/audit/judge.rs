//! Decides which lines of one file are not what was written. Touches no file.
//!
//! Every record has a number, and the next record has its hash. Numbers show what is missing,
//! doubled or out of place; hashes show what was changed. A broken link between two lines does not
//! show which of them was changed. So each line is compared with its own witness: the line after
//! it, and for the last line the signed head.

use crate::disk::audit::chain::{LineHash, Tip};

/// A line of the file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    /// A record.
    Record { seq: u64, prev: Option<LineHash>, hash: LineHash },
    /// It is not a record.
    Garbage { hash: LineHash },
}

/// Something wrong at a line; the first line has number 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) seq: u64,
    pub(super) what: String,
}

/// What is known about the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It ends with exactly this record.
    At(Tip),
    /// It ends with this record or a later one.
    AtLeast(Tip),
    /// Nothing is known.
    Unknown,
}

impl End {
    const fn tip(self) -> Option<Tip> {
        match self {
            Self::At(tip) | Self::AtLeast(tip) => Some(tip),
            Self::Unknown => None,
        }
    }
}

/// A record at its place in the order of numbers, wherever its line is.
#[derive(Clone, Copy, Debug)]
struct Placed {
    line: usize,
    seq: u64,
    /// `None`: it is not compared, because the line is known to be wrong.
    prev: Option<LineHash>,
    hash: LineHash,
    sound: bool,
}

/// The records of one file, judged.
#[derive(Debug)]
pub(super) struct Judgement {
    /// The faults, in the order of lines.
    pub(super) faults: Vec<Fault>,
    /// The last record.
    pub(super) tip: Option<Tip>,
    placed: Vec<Placed>,
}

impl Judgement {
    /// Judges the lines of a file. `before` is the last record of the file before, if it is known.
    pub(super) fn new(entries: &[Entry], before: Option<Tip>, end: End) -> Self {
        let first = entries.iter().find_map(|entry| match entry {
            Entry::Record { seq, .. } => Some(*seq),
            Entry::Garbage { .. } => None,
        });
        let start = before.map(|tip| tip.seq.saturating_add(1)).or(first).unwrap_or(1);
        let (placed, mut faults) = place(entries, start, end.tip().map(|tip| tip.seq));
        let tip = placed.last().map(|last| Tip { seq: last.seq, hash: last.hash });
        check_end(&placed, start, end, entries.len(), &mut faults);
        check_links(&placed, before, end, &mut faults);
        faults.sort_by_key(|fault| fault.line);
        Self { faults, tip, placed }
    }

    /// The hash of a record, by its number.
    pub(super) fn hash_of(&self, seq: u64) -> Option<LineHash> {
        let index = self.placed.binary_search_by_key(&seq, |placed| placed.seq).ok()?;
        self.placed.get(index).map(|placed| placed.hash)
    }

    /// Number of the first record.
    pub(super) fn first_seq(&self) -> Option<u64> {
        self.placed.first().map(|placed| placed.seq)
    }
}

/// The place of a line, by its number.
enum Standing {
    /// At its place, with another number.
    Changed,
    /// After missing records.
    Gap,
    /// At its place.
    Here,
    /// At a wrong place: it belongs elsewhere, or nowhere.
    Stray,
    /// At the place of the next one, which is at its place.
    Swapped,
}

impl Standing {
    /// The place of record `seq` where `expected` should be. `next` and `second` are the numbers of
    /// the two lines after it. `ends`: it is the last line, and the file must end with `expected`.
    fn of(seq: u64, expected: u64, next: Option<u64>, second: Option<u64>, ends: bool) -> Self {
        let following = expected.saturating_add(1);
        let second_fits = second.is_none_or(|second| second == following.saturating_add(1));
        if seq == expected {
            Self::Here
        } else if seq == following && next == Some(expected) && second_fits {
            Self::Swapped
        } else if next == Some(following) || ends {
            Self::Changed
        } else if next == Some(expected) || seq < expected {
            Self::Stray
        } else {
            Self::Gap
        }
    }

    /// The fault of a record at this place, for a person.
    fn fault(&self, line: usize, seq: u64, expected: u64, has_prev: bool) -> Option<String> {
        match self {
            Self::Here if has_prev => None,
            Self::Here => Some(format!("record {seq} has no good \"prev\": it was changed")),
            Self::Swapped => {
                let next = line + 1;
                Some(format!("records {expected} and {seq}: lines {line} and {next} are swapped"))
            }
            Self::Changed => Some(format!(
                "this line says that it is record {seq}, but {expected} belongs here: it was changed"
            )),
            Self::Stray => {
                Some(format!("record {seq} does not belong here: it was put in, copied or moved"))
            }
            Self::Gap => Some(missing(expected, seq.saturating_sub(1), "before this line")),
        }
    }
}

/// Puts the lines into the order of their numbers; `last` is the number of the last one.
fn place(entries: &[Entry], start: u64, last: Option<u64>) -> (Vec<Placed>, Vec<Fault>) {
    let number = |index: usize| match entries.get(index) {
        Some(Entry::Record { seq, .. }) => Some(*seq),
        Some(Entry::Garbage { .. }) | None => None,
    };
    let mut placed = Vec::with_capacity(entries.len());
    let mut faults = Vec::new();
    let mut expected = start;
    let mut index = 0;
    while let Some(entry) = entries.get(index) {
        let line = index + 1;
        index += 1;
        let unsound = |hash| Placed { line, seq: expected, prev: None, hash, sound: false };
        let (seq, prev, hash) = match *entry {
            Entry::Record { seq, prev, hash } => (seq, prev, hash),
            Entry::Garbage { hash } => {
                let what = "this line is no record: it was changed".to_owned();
                faults.push(Fault { line, seq: expected, what });
                placed.push(unsound(hash));
                expected = expected.saturating_add(1);
                continue;
            }
        };
        let here = Placed { line, seq, prev, hash, sound: prev.is_some() };
        let ends = line == entries.len() && last == Some(expected);
        let standing = Standing::of(seq, expected, number(line), number(line + 1), ends);
        let what = standing.fault(line, seq, expected, prev.is_some());
        faults.extend(what.map(|what| Fault { line, seq: expected, what }));
        let mut used = 1;
        match standing {
            Standing::Here => placed.push(here),
            Standing::Swapped => {
                if let Some(Entry::Record { seq, prev, hash }) = entries.get(index) {
                    let (line, seq, prev, hash) = (line + 1, *seq, *prev, *hash);
                    placed.push(Placed { line, seq, prev, hash, sound: true });
                }
                placed.push(Placed { sound: true, ..here });
                index += 1;
                used = 2;
            }
            Standing::Changed => placed.push(unsound(hash)),
            Standing::Stray => used = 0,
            Standing::Gap => {
                placed.push(here);
                expected = seq;
            }
        }
        expected = expected.saturating_add(used);
    }
    (placed, faults)
}

/// Whether the file ends where it should.
fn check_end(placed: &[Placed], start: u64, end: End, lines: usize, faults: &mut Vec<Fault>) {
    let Some(tip) = end.tip() else { return };
    let last = placed.last().map_or(start.saturating_sub(1), |last| last.seq);
    if last < tip.seq {
        let what = missing(last.saturating_add(1), tip.seq, "at the end");
        faults.push(Fault { line: lines + 1, seq: last.saturating_add(1), what });
    } else if last > tip.seq && matches!(end, End::At(_)) {
        let added = placed.iter().find(|placed| placed.seq > tip.seq);
        let what = format!("the file ended with record {}: what follows was added", tip.seq);
        faults.push(Fault { line: added.map_or(lines, |added| added.line), seq: last, what });
    }
}

/// Finds records whose hash differs from that of their witness. Goes from the end to the start,
/// because a changed record is not a witness.
fn check_links(placed: &[Placed], before: Option<Tip>, end: End, faults: &mut Vec<Fault>) {
    let changed = |record: &Placed, witness: &str| Fault {
        line: record.line,
        seq: record.seq,
        what: format!("record {} was changed: {witness} has another hash of it", record.seq),
    };
    // The record after, and whether its own hash is confirmed; `None`: unknown.
    let mut after: Option<(Placed, Option<bool>)> = None;
    for record in placed.iter().rev() {
        let signed = end.tip().filter(|tip| tip.seq == record.seq);
        let mut confirmed = signed.map(|tip| tip.hash == record.hash);
        if confirmed == Some(false) && record.sound {
            faults.push(changed(record, "the signed head"));
        }
        if let Some((next, next_confirmed)) = after
            && next.seq == record.seq.saturating_add(1)
            && let Some(prev) = next.prev
        {
            match (prev == record.hash, next_confirmed) {
                (true, _) => confirmed = confirmed.or(Some(true)),
                (false, _) if confirmed.is_some() || !record.sound => {
                    // It is judged already. A confirmed record shows that the one after it was
                    // changed.
                    if confirmed == Some(true) && next_confirmed.is_none() {
                        faults.push(changed(&next, "the record before"));
                    }
                }
                (false, Some(true)) => {
                    confirmed = Some(false);
                    faults.push(changed(record, "the next record"));
                }
                // The record after it was changed, perhaps in its "prev".
                (false, Some(false)) => {}
                (false, None) => {
                    confirmed = Some(false);
                    let what = format!(
                        "record {} or {} was changed: they do not fit together, and no signed head \
                         covers them yet",
                        record.seq, next.seq
                    );
                    faults.push(Fault { line: record.line, seq: record.seq, what });
                }
            }
        }
        if !record.sound {
            confirmed = Some(false);
        }
        after = Some((*record, confirmed));
    }
    if let (Some(tip), Some((first, confirmed))) = (before, after)
        && first.seq == tip.seq.saturating_add(1)
        && first.prev.is_some_and(|prev| prev != tip.hash)
        && confirmed != Some(false)
    {
        let what = format!("record {} does not follow on record {}", first.seq, tip.seq);
        faults.push(Fault { line: first.line, seq: first.seq, what });
    }
}

fn missing(first: u64, last: u64, place: &str) -> String {
    if first == last {
        format!("record {first} is missing {place}")
    } else {
        format!("records {first} to {last} are missing {place}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A line as a test changes it: number, hash of the one before, content.
    type Line = (u64, LineHash, u64);

    fn hash(line: Line) -> LineHash {
        LineHash::of(format!("{line:?}").as_bytes())
    }

    fn chain(length: u64) -> Vec<Line> {
        let mut prev = LineHash::ZERO;
        (1..=length)
            .map(|seq| {
                let line = (seq, prev, 0);
                prev = hash(line);
                line
            })
            .collect()
    }

    fn end_of(lines: &[Line]) -> End {
        End::AtLeast(lines.last().map_or(Tip::START, |line| Tip { seq: line.0, hash: hash(*line) }))
    }

    fn faults(lines: &[Line], end: End) -> Vec<usize> {
        let entries: Vec<_> = lines
            .iter()
            .map(|line| Entry::Record { seq: line.0, prev: Some(line.1), hash: hash(*line) })
            .collect();
        let judgement = Judgement::new(&entries, Some(Tip::START), end);
        judgement.faults.into_iter().map(|fault| fault.line).collect()
    }

    #[test]
    fn a_whole_chain_has_no_fault() {
        for length in 0..5 {
            let lines = chain(length);
            assert_eq!(faults(&lines, end_of(&lines)), Vec::<usize>::new());
            assert_eq!(faults(&lines, End::Unknown), Vec::<usize>::new());
        }
    }

    #[test]
    fn whatever_is_done_to_one_line_that_line_is_named() {
        let good = chain(7);
        let end = end_of(&good);
        for index in 0..good.len() {
            let line = index + 1;
            let mut content = good.clone();
            content[index].2 = 1;
            assert_eq!(faults(&content, end), [line], "content of {line}");
            let mut prev = good.clone();
            prev[index].1 = LineHash::of(b"forged");
            assert_eq!(faults(&prev, end), [line], "prev of {line}");
            for seq in [0, 3, 900] {
                let mut number = good.clone();
                number[index].0 = seq;
                if number != good {
                    assert_eq!(faults(&number, end), [line], "number of {line}: {seq}");
                }
            }
            let mut deleted = good.clone();
            deleted.remove(index);
            assert_eq!(faults(&deleted, end), [line], "deleted {line}");
            let mut twice = good.clone();
            twice.insert(index, good[index]);
            assert_eq!(faults(&twice, end), [line + 1], "twice {line}");
            let mut cut = good.clone();
            cut.truncate(index);
            assert_eq!(faults(&cut, end), [line], "cut before {line}");
            if index > 0 {
                let mut swapped = good.clone();
                swapped.swap(index - 1, index);
                assert_eq!(faults(&swapped, end), [line - 1], "swapped {line}");
            }
        }
    }

    #[test]
    fn a_chain_that_was_made_anew_does_not_end_with_the_signed_head() {
        let good = chain(7);
        let mut forged = good.clone();
        forged[3].2 = 1;
        for index in 4..forged.len() {
            forged[index].1 = hash(forged[index - 1]);
        }
        assert_eq!(faults(&forged, end_of(&good)), [7]);
        assert_eq!(
            faults(&forged, End::Unknown),
            Vec::<usize>::new(),
            "that is why heads are kept elsewhere"
        );
    }

    #[test]
    fn lines_after_the_head_are_judged_by_their_chain() {
        let good = chain(7);
        let end = end_of(&good[..5]);
        assert_eq!(faults(&good, end), Vec::<usize>::new());
        let mut changed = good.clone();
        changed[5].2 = 1;
        assert_eq!(faults(&changed, end), [6]);
        let mut forged = good.clone();
        forged[4].2 = 1;
        assert_eq!(faults(&forged, end), [5]);
        let at = End::At(Tip { seq: 5, hash: hash(good[4]) });
        assert_eq!(faults(&good, at), [6], "a full file gets no more lines");
    }

    fn forgery() -> impl Strategy<Value = (usize, usize, u8, u64)> {
        (0..12_usize, 0..12_usize, 0..6_u8, 1..20_u64)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Every mixture of deletions, copies, swaps and changes is found.
        #[test]
        fn no_mixture_of_changes_goes_unseen(forgeries in prop::collection::vec(forgery(), 1..5)) {
            let good = chain(12);
            let mut lines = good.clone();
            for (index, other, what, value) in forgeries {
                if index >= lines.len() || other >= lines.len() {
                    continue;
                }
                match what {
                    0 => { lines.remove(index); }
                    1 => lines.insert(other, lines[index]),
                    2 => lines.swap(index, other),
                    3 => lines[index].0 = value,
                    4 => lines[index].2 = value,
                    _ => lines[index].1 = LineHash::of(&value.to_be_bytes()),
                }
            }
            prop_assert_eq!(faults(&lines, end_of(&good)).is_empty(), lines == good);
        }
    }
}
