//! The keys of the live view.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use jit_proto::printable::is_hostile;

use super::Live;
use crate::status::Order;

/// Longest text of a filter, characters.
const LONGEST: usize = 64;

pub(super) const HELP: &str =
    "q quit   / filter   sort: t left, h hits, s source, r requester   ↑↓ PgUp PgDn";

/// What follows a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Draw,
    Quit,
    Suspend,
}

pub(super) const fn name(order: Order) -> &'static str {
    match order {
        Order::Hits => "hits",
        Order::Left => "time left",
        Order::Port => "port",
        Order::Source => "source",
        Order::User => "requester",
    }
}

impl Live {
    /// Does what a key says.
    pub(crate) fn key(&mut self, key: KeyEvent) -> After {
        if key.kind == KeyEventKind::Release {
            return After::Draw;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => After::Quit,
                KeyCode::Char('z') => After::Suspend,
                _ => After::Draw,
            };
        }
        match key.code {
            KeyCode::Down => self.scroll(1),
            KeyCode::Up => self.scroll(-1),
            KeyCode::PageDown => self.scroll(self.page()),
            KeyCode::PageUp => self.scroll(-self.page()),
            KeyCode::Home => self.top = 0,
            KeyCode::End => self.top = usize::MAX,
            code if self.typing => self.typed(code),
            code => return self.letter(code),
        }
        After::Draw
    }

    /// A key while the filter is being typed.
    fn typed(&mut self, code: KeyCode) {
        match code {
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) if !is_hostile(letter) => {
                if self.filter.chars().count() < LONGEST {
                    self.filter.push(letter);
                }
            }
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.typing = false;
            }
            _ => return,
        }
        self.top = 0;
        self.arrange();
    }

    fn letter(&mut self, code: KeyCode) -> After {
        match code {
            KeyCode::Char('q') => return After::Quit,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('t') => self.sort(Order::Left),
            KeyCode::Char('h') => self.sort(Order::Hits),
            KeyCode::Char('s') => self.sort(Order::Source),
            KeyCode::Char('r') => self.sort(Order::User),
            KeyCode::Char('j') => self.scroll(1),
            KeyCode::Char('k') => self.scroll(-1),
            KeyCode::Char(' ') => self.scroll(self.page()),
            KeyCode::Esc => {
                self.filter.clear();
                self.arrange();
            }
            _ => {}
        }
        After::Draw
    }

    fn sort(&mut self, order: Order) {
        self.order = order;
        self.top = 0;
        self.arrange();
    }

    /// `draw` keeps it inside the list.
    fn scroll(&mut self, by: isize) {
        self.top = self.top.saturating_add_signed(by);
    }

    fn page(&self) -> isize {
        isize::try_from(self.rows).unwrap_or(isize::MAX)
    }
}
