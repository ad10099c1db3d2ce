//! The live view of `status`: what a key does, and what is on the screen. Pure: answers, keys and
//! times in, lines out; `watch` has the terminal.
//!
//! The first line is the verdict, then the problems and what comes soon; the last line says the keys.
//! The grants have the lines between that the others leave.

mod keys;

use std::time::{Duration, Instant};

use jit_proto::{
    SourcePrefix,
    printable::clean,
    v1,
    words::{id_text, range_text, source_text},
};

pub(crate) use self::keys::After;
use super::{
    BOLD, Filter, Order, Page, ShortIds,
    columns::cut,
    drops,
    grants::{self, readable},
    layout::lay_out,
    sections,
    words::thousands,
};

/// Neither enforcing nor not: nobody knows.
const UNKNOWN: &str = "unknown";
/// An answer that is older is not reported as the present state.
const OLD: Duration = Duration::from_secs(2);
/// Grants that have a line before the other sections get more than they need.
const LEAST_GRANTS: usize = 5;
/// Two counts nearer to each other give no rate.
const APART: Duration = Duration::from_millis(200);

/// The answer on the screen, and how a person looks at it.
#[derive(Debug)]
pub(crate) struct Live {
    status: v1::StatusResponse,
    at: Instant,
    /// What is dropped a second; `None`: there is only one answer.
    rate: Option<String>,
    ids: ShortIds,
    /// The grants that the filter leaves, in order.
    shown: Vec<v1::GrantState>,
    order: Order,
    filter: String,
    /// The filter is being typed.
    typing: bool,
    /// Index of the first grant on the screen.
    top: usize,
    /// Grants on the screen when it was last drawn.
    rows: usize,
}

impl Live {
    pub(crate) fn new(status: v1::StatusResponse, at: Instant) -> Self {
        let mut live = Self {
            status: v1::StatusResponse::default(),
            at,
            rate: None,
            ids: ShortIds::default(),
            shown: Vec::new(),
            order: Order::Left,
            filter: String::new(),
            typing: false,
            top: 0,
            rows: 1,
        };
        live.take(status);
        live
    }

    /// The next answer.
    pub(crate) fn answer(&mut self, status: v1::StatusResponse, at: Instant) {
        let apart = at.saturating_duration_since(self.at);
        if apart >= APART {
            let counts = self.status.drops.as_ref().zip(status.drops.as_ref());
            self.rate = counts.map(|(before, after)| drops::a_second(before, after, apart));
        }
        self.at = at;
        self.take(status);
    }

    fn take(&mut self, status: v1::StatusResponse) {
        self.ids = ShortIds::of(&status.grants);
        self.status = status;
        self.arrange();
    }

    /// The last answer.
    pub(crate) fn into_status(self) -> v1::StatusResponse {
        self.status
    }

    /// Filters and sorts the grants.
    fn arrange(&mut self) {
        // A clone shares the bytes of the grant.
        self.shown = self.status.grants.clone();
        if !self.filter.is_empty() {
            self.shown.retain(|state| has(state, &self.filter));
        }
        self.order.sort(&mut self.shown);
    }

    /// The screen: at most as many lines as the page has, none too wide.
    pub(crate) fn draw(&mut self, now: Instant, page: Page) -> Vec<String> {
        let Page { style, width: wide, height, .. } = page;
        let height = height.unwrap_or(usize::MAX).max(1);
        let age = now.saturating_duration_since(self.at);
        let old = (age > OLD).then(|| self.outdated(age));
        let status = old.as_ref().unwrap_or(&self.status);
        let mut lines = vec![sections::head(status, style, wide)];
        let body = height.saturating_sub(2);
        let least = (2 + self.shown.len().min(LEAST_GRANTS)).min(body / 2);
        let rate = self.rate.clone().filter(|_| old.is_none());
        let around = sections::around_grants(status, page, rate);
        lines.extend(lay_out(&around, Some(body - least), wide, style));
        let room = (body + 1).saturating_sub(lines.len());
        self.rows = room.saturating_sub(2).max(1);
        self.top = self.top.min(self.shown.len().saturating_sub(self.rows));
        if room > 0 {
            lines.push(self.title(wide));
            let window = self.window(age);
            if !window.is_empty() {
                lines.extend(grants::window(&window, &self.ids, wide, room - 1, style));
            }
        }
        if height > 1 {
            lines.resize(height.saturating_sub(1).min(lines.len() + body), String::new());
            let keys = self.help(wide);
            lines.push(style.paint(BOLD, &keys));
        }
        lines
    }

    /// The last answer when a newer one should be there: nothing in it is certain.
    fn outdated(&self, age: Duration) -> v1::StatusResponse {
        let problem = format!("no answer for {} s: what follows is that old", age.as_secs());
        uncertain(self.status.clone(), problem)
    }

    /// The grants on the screen, with the time left now.
    fn window(&self, age: Duration) -> Vec<v1::GrantState> {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let window = self.shown.iter().skip(self.top).take(self.rows).cloned();
        window
            .map(|state| v1::GrantState {
                left_ms: state.left_ms.saturating_sub(age).max(0),
                ..state
            })
            .collect()
    }

    /// `grants   40 live  3 to 17 of 40 by time left, with "ana"`.
    fn title(&self, wide: Option<usize>) -> String {
        let number = self.shown.len();
        let count = |number: usize| thousands(u64::try_from(number).unwrap_or(u64::MAX));
        let mut text = format!("grants   {}", grants::counts(&self.status.grants));
        if number > self.rows {
            let last = (self.top + self.rows).min(number);
            let (first, last, all) = (count(self.top + 1), count(last), count(number));
            text.push_str(&format!("  {first} to {last} of {all}"));
        }
        if !self.status.grants.is_empty() {
            text.push_str(&format!("  by {}", keys::name(self.order)));
        }
        if !self.filter.is_empty() {
            let filter = clean(&self.filter, 40);
            text.push_str(&format!(", {} with \"{filter}\"", count(number)));
        }
        wide.map_or_else(|| text.clone(), |wide| cut(&text, wide))
    }

    fn help(&self, wide: Option<usize>) -> String {
        let text = if self.typing {
            format!("filter: {}_   Enter keep   Esc clear", clean(&self.filter, 40))
        } else {
            keys::HELP.to_owned()
        };
        wide.map_or_else(|| text.clone(), |wide| cut(&text, wide))
    }
}

/// A status of which nothing is certain, for this reason.
pub(crate) fn uncertain(mut status: v1::StatusResponse, problem: String) -> v1::StatusResponse {
    status.state = UNKNOWN.into();
    status.problems.insert(0, problem);
    status
}

/// Whether a grant has this: an address that it lets in, or a part of a text in its row.
fn has(state: &v1::GrantState, text: &str) -> bool {
    if let Ok(source) = text.parse::<SourcePrefix>() {
        let filter = Filter { source: Some(source), ..Filter::default() };
        return filter.matches(&readable(state));
    }
    let grant = readable(state);
    let wanted = text.to_lowercase();
    let names = [&grant.requester, &grant.ticket, &grant.justification];
    names.into_iter().any(|name| name.to_lowercase().contains(&wanted))
        || id_text(&grant.id).to_lowercase().contains(&wanted)
        || grant.sources.iter().any(|source| source_text(source).contains(&wanted))
        || grant.ports.iter().any(|range| range_text(Some(range)).contains(&wanted))
}

#[cfg(test)]
mod tests;
