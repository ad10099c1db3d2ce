//! What an open page reads of its stream, also for the bench of streams: its events, however they
//! come in pieces, and whatever comments stand between them.

/// The bytes of a stream of events that are not read yet.
#[derive(Default)]
pub(crate) struct Heard(Vec<u8>);

impl Heard {
    /// Adds what came.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Takes the name of the next event; `None`: it has not come, or not all of it. A comment, such
    /// as a heartbeat, is no event.
    pub(crate) fn take(&mut self) -> Option<String> {
        loop {
            let end = self.0.windows(2).position(|two| two == b"\n\n")?;
            let part: Vec<u8> = self.0.drain(..end + 2).collect();
            let text = String::from_utf8(part).expect("events are UTF-8");
            if let Some(name) = text.lines().find_map(|line| line.strip_prefix("event: ")) {
                return Some(name.to_owned());
            }
        }
    }
}

#[test]
fn an_event_is_heard_in_pieces_and_after_heartbeats() {
    let all =
        b": heartbeat\n\nevent: changed\ndata: changed\n\n: heartbeat\n\nevent: end\ndata: end\n\n";
    for size in 1..=all.len() {
        let (mut heard, mut names) = (Heard::default(), Vec::new());
        for piece in all.chunks(size) {
            heard.add(piece);
            names.extend(std::iter::from_fn(|| heard.take()));
        }
        assert_eq!(names, ["changed", "end"], "in pieces of {size}");
    }
}

#[test]
fn heartbeats_and_half_an_event_are_no_event() {
    let mut heard = Heard::default();
    for piece in [": heartbeat\n\n", ": heartbeat\n\n", "event: changed\ndata: changed\n"] {
        heard.add(piece.as_bytes());
        assert_eq!(heard.take(), None, "after {piece:?}");
    }
    heard.add(b"\n");
    assert_eq!(heard.take().as_deref(), Some("changed"));
}
