//! Messages to people: what happens to a request, in the form of a chat or of a mail.
//!
//! A message names who asks, for what, why, who may agree, who decided and what hosts answered. It
//! never decides: its link leads to a page. What people have typed is shown as text, whatever is in
//! it.

pub mod bot;
pub mod card;
pub mod courier;
pub mod mail;
pub mod news;
pub mod retry;
pub mod settings;
pub mod slack;
mod smtp;
pub mod teams;

pub use card::Card;
pub use courier::Courier;
pub use retry::Retry;
pub use settings::{RawSettings, Settings};
