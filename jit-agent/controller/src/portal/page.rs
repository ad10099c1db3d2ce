//! What all pages have in common.

use std::{collections::BTreeMap, fmt};

use askama::Template;
use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};

use super::files;
use crate::{
    api::{Failure, Word, Written},
    people::session::SignedIn,
};

/// Around each page: whose it is, and where it is.
pub(super) struct Shell {
    /// Where the style is.
    pub(super) style: &'static str,
    /// The page in the list of pages that is shown; empty: none.
    pub(super) here: &'static str,
    /// Who is signed in; `None`: nobody.
    pub(super) who: Option<Who>,
}

/// Who is signed in.
pub(super) struct Who {
    pub(super) name: String,
    /// What each form carries.
    pub(super) form_key: String,
    /// It sees the page *Audit*.
    pub(super) is_auditor: bool,
    /// It sees the pages *Close*, *Enrolments* and *Health*.
    pub(super) is_admin: bool,
}

impl Shell {
    /// A page of somebody.
    pub(super) fn of(signed_in: &SignedIn, here: &'static str) -> Self {
        let account = signed_in.account();
        let who = Who {
            name: account.name.clone(),
            form_key: signed_in.form_key().to_owned(),
            is_auditor: account.is_auditor(),
            is_admin: account.is_admin(),
        };
        Self { who: Some(who), ..Self::nobodys(here) }
    }

    /// A page that anybody may see.
    pub(super) fn nobodys(here: &'static str) -> Self {
        Self { style: files::style(), here, who: None }
    }

    /// What each form carries; empty: nobody is signed in.
    pub(super) fn form_key(&self) -> &str {
        self.who.as_ref().map_or("", |who| &who.form_key)
    }
}

/// Labels of a host, for people: `env=prod, role=web`.
pub(super) struct Labels<'f>(pub(super) &'f BTreeMap<String, String>);

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (key, value)) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

/// A page.
///
/// # Errors
/// A defect of the template.
pub(super) fn page(status: StatusCode, template: &impl Template) -> Result<Response, Failure> {
    let text = template.render().map_err(|why| Failure::hidden(Word::Internal, why))?;
    let mut response = (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response();
    response.extensions_mut().insert(Written);
    Ok(response)
}
