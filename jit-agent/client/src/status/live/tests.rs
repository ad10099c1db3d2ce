use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use prost::Message as _;

use super::*;
use crate::status::Style;

const MINUTE: i64 = 60_000;

fn grant(index: u8) -> v1::GrantState {
    let source: SourcePrefix = format!("203.0.113.{index}").parse().unwrap();
    let signed = v1::Grant {
        id: vec![index; 16].into(),
        sources: vec![v1::Source::from(&source)],
        ports: vec![v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: 22, last: 22 }],
        requester: format!("user{}@example.org", 100 - index),
        ticket: format!("INC-{index}"),
        ..v1::Grant::default()
    };
    v1::GrantState {
        grant: signed.encode_to_vec().into(),
        state: v1::State::Active.into(),
        left_ms: i64::from(index) * MINUTE,
        hits: u64::from(index) * 7 % 40,
        ..v1::GrantState::default()
    }
}

fn status(grants: u8) -> v1::StatusResponse {
    v1::StatusResponse {
        version: "0.1.0".into(),
        host: "web-1".into(),
        state: "enforcing".into(),
        mode: "enforce".into(),
        // The last to end comes first: the view sorts.
        grants: (1..=grants).rev().map(grant).collect(),
        ..v1::StatusResponse::default()
    }
}

fn live(grants: u8) -> (Live, Instant) {
    let now = Instant::now();
    (Live::new(status(grants), now), now)
}

fn screen(live: &mut Live, now: Instant, wide: usize, high: usize) -> Vec<String> {
    let page = Page { width: Some(wide), height: Some(high), ..Page::endless(Style::Plain) };
    live.draw(now, page)
}

fn press(live: &mut Live, code: KeyCode) -> After {
    live.key(KeyEvent::from(code))
}

fn write(live: &mut Live, text: &str) {
    for letter in text.chars() {
        assert_eq!(press(live, KeyCode::Char(letter)), After::Draw);
    }
}

/// The tickets on the screen, in order.
fn tickets(lines: &[String]) -> Vec<u8> {
    let words = lines.iter().flat_map(|line| line.split_whitespace());
    words.filter_map(|word| word.strip_prefix("INC-")?.parse().ok()).collect()
}

#[test]
fn the_first_line_is_the_verdict_and_the_last_the_keys_on_any_size() {
    for wide in [20, 79, 80, 200] {
        for high in [1, 2, 3, 5, 10, 24, 50] {
            for grants in [0, 1, 40] {
                let (mut live, now) = live(grants);
                let lines = screen(&mut live, now, wide, high);
                let shown = lines.join("\n");
                assert!(lines[0].ends_with("ENFORCING"), "{wide}x{high}\n{shown}");
                assert_eq!(lines.len(), high, "{wide}x{high}\n{shown}");
                assert!(high == 1 || lines[high - 1].starts_with("q quit"), "{shown}");
                let widths = lines.iter().map(|line| super::super::columns::width(line));
                assert!(widths.max().unwrap() <= wide, "{wide}x{high}\n{shown}");
                assert!(
                    high < 10 || wide < 79 || grants == 0 || !tickets(&lines).is_empty(),
                    "{shown}"
                );
            }
        }
    }
}

#[test]
fn keys_sort_the_grants() {
    let (mut live, now) = live(5);
    let mut order = |key| {
        if let Some(key) = key {
            press(&mut live, KeyCode::Char(key));
        }
        tickets(&screen(&mut live, now, 80, 24))
    };
    assert_eq!(order(None), [1, 2, 3, 4, 5]);
    assert_eq!(order(Some('h')), [5, 4, 3, 2, 1]);
    assert_eq!(order(Some('s')), [1, 2, 3, 4, 5]);
    assert_eq!(order(Some('r')), [5, 4, 3, 2, 1]);
    assert_eq!(order(Some('t')), [1, 2, 3, 4, 5]);
}

#[test]
fn keys_scroll_and_stop_at_both_ends() {
    let (mut live, now) = live(40);
    let first = tickets(&screen(&mut live, now, 80, 24));
    let rows = u8::try_from(first.len()).unwrap();
    assert_eq!(first, (1..=rows).collect::<Vec<_>>());
    let mut after = |code| {
        press(&mut live, code);
        tickets(&screen(&mut live, now, 80, 24))[0]
    };
    assert_eq!(after(KeyCode::Up), 1);
    assert_eq!(after(KeyCode::Down), 2);
    assert_eq!(after(KeyCode::PageDown), 2 + rows);
    assert_eq!(after(KeyCode::PageUp), 2);
    assert_eq!(after(KeyCode::End), 41 - rows);
    assert_eq!(after(KeyCode::Down), 41 - rows);
    assert_eq!(after(KeyCode::Home), 1);
}

#[test]
fn a_filter_finds_addresses_names_and_tickets() {
    let (mut live, now) = live(40);
    let mut found = |text: &str| {
        press(&mut live, KeyCode::Char('/'));
        write(&mut live, text);
        press(&mut live, KeyCode::Enter);
        let lines = screen(&mut live, now, 80, 60);
        press(&mut live, KeyCode::Esc);
        (tickets(&lines), lines)
    };
    assert_eq!(found("203.0.113.7").0, [7]);
    assert_eq!(found("203.0.113.0/30").0, [1, 2, 3]);
    assert_eq!(found("USER93@").0, [7]);
    assert_eq!(found("inc-12").0, [12]);
    assert_eq!(found("22/tcp").0.len(), 40);
    let (none, lines) = found("nobody");
    assert!(none.is_empty() && lines.iter().any(|line| line.contains("0 with \"nobody\"")));
    assert_eq!(tickets(&screen(&mut live, now, 80, 60)).len(), 40);
}

#[test]
fn letters_of_a_filter_are_no_commands_and_control_characters_no_letters() {
    let (mut live, now) = live(3);
    press(&mut live, KeyCode::Char('/'));
    write(&mut live, "q\x1b\u{202e}\n");
    let lines = screen(&mut live, now, 80, 24);
    assert_eq!(lines[23], "filter: q_   Enter keep   Esc clear");
    write(&mut live, &"x".repeat(1_000));
    assert!(live.filter.chars().count() <= 64);
    let quit = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(live.key(quit), After::Quit);
    assert_eq!(press(&mut live, KeyCode::Enter), After::Draw);
    assert_eq!(press(&mut live, KeyCode::Char('q')), After::Quit);
    let stop = KeyEvent::new(KeyCode::Char('z'), KeyModifiers::CONTROL);
    assert_eq!(live.key(stop), After::Suspend);
}

#[test]
fn the_time_left_counts_down_between_answers() {
    let (mut live, now) = live(1);
    let left = |live: &mut Live, after| {
        let lines = screen(live, now + Duration::from_millis(after), 80, 24);
        lines.iter().find(|line| line.contains("INC-1")).unwrap().clone()
    };
    assert!(left(&mut live, 0).contains("  1m00s "));
    assert!(left(&mut live, 1_500).contains("  58s "));
    assert!(left(&mut live, 999_000).contains("  0s "));
}

#[test]
fn an_old_answer_is_never_reported_as_the_present_state() {
    let (mut live, now) = live(1);
    let at = |live: &mut Live, millis| screen(live, now + Duration::from_millis(millis), 80, 24);
    assert!(at(&mut live, 1_900)[0].ends_with("ENFORCING"));
    let lines = at(&mut live, 3_100);
    assert!(lines[0].ends_with("UNKNOWN"), "{lines:?}");
    assert_eq!(lines[1], "problem  no answer for 3 s: what follows is that old");
    live.answer(status(1), now + Duration::from_millis(3_200));
    assert!(at(&mut live, 3_300)[0].ends_with("ENFORCING"));
}

#[test]
fn drops_a_second_come_with_the_second_answer() {
    let (mut live, now) = live(0);
    let dropped = |packets| v1::StatusResponse {
        drops: Some(v1::Drops {
            by_reason: vec![v1::Counter { reason: "denied".into(), packets }],
            ..v1::Drops::default()
        }),
        ..status(0)
    };
    live.answer(dropped(10), now);
    let later = now + Duration::from_secs(1);
    assert!(!screen(&mut live, later, 80, 24).join("\n").contains("a second"));
    live.answer(dropped(1_510), later);
    let lines = screen(&mut live, later, 80, 24);
    assert!(lines.contains(&"dropped  1,500 a second".to_owned()), "{lines:?}");
}

#[test]
fn hostile_names_do_not_reach_the_screen() {
    let (_, now) = live(0);
    let bad = "eve\x1b[2J\n\u{202e}gnp";
    let signed = v1::Grant { requester: bad.into(), ..v1::Grant::default() };
    let grant = v1::GrantState { grant: signed.encode_to_vec().into(), ..grant(1) };
    let mut live = Live::new(
        v1::StatusResponse {
            grants: vec![grant],
            problems: vec![bad.into()],
            soon: vec![bad.into()],
            host: bad.into(),
            ..status(0)
        },
        now,
    );
    for line in screen(&mut live, now, 80, 24) {
        assert!(!line.contains(jit_proto::printable::is_hostile), "{line:?}");
    }
}
