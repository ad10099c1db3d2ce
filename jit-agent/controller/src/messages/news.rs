//! From records of the audit to messages: of each request what it is now, once, however many
//! records of it there are.

use std::collections::BTreeSet;

use super::card::{Card, hears};
use crate::{
    audit::Line,
    desk::{Desk, DeskError},
    store::Whole,
};

/// What a record is about.
#[derive(Debug)]
pub enum About {
    /// A request, as it is now.
    Request(Box<Whole>, Card),
    /// Something else.
    Record(Card),
}

/// The records of a page that lead to a message, each request once.
#[derive(Debug, Default)]
pub struct Page(BTreeSet<String>);

impl Page {
    /// What a message says after this record; `None`: nothing, or it was said on this page.
    ///
    /// # Errors
    /// Those of the database and of the rules.
    pub async fn about(
        &mut self,
        desk: &Desk,
        line: &Line,
        site: Option<&str>,
        now_ms: i64,
    ) -> Result<Option<About>, DeskError> {
        if !hears(&line.code) {
            return Ok(None);
        }
        if line.request.is_empty() {
            return Ok(Some(About::Record(Card::of_record(line))));
        }
        if !self.0.insert(line.request.clone()) {
            return Ok(None);
        }
        let Some(whole) = desk.store().whole(&line.request).await? else { return Ok(None) };
        let (missing, eligible) = desk.open_needs(&whole.request, now_ms).await?;
        let card = Card::of_request(&whole, &missing, &eligible, site);
        Ok(Some(About::Request(Box::new(whole), card)))
    }
}
