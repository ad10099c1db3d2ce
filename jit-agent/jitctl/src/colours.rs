//! The option of every command that has colours.

use clap::{Args, ColorChoice};
use jit_client::status::Style;

/// The option of every command that has colours.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Colours {
    /// Colours: `auto` has them on a terminal, unless NO_COLOR is set or TERM is dumb
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

impl Colours {
    /// As if the option had this value.
    pub(crate) const fn of(color: ColorChoice) -> Self {
        Self { color }
    }

    /// Whether text on standard output has colours.
    pub(crate) fn style(self) -> Style {
        match self.color {
            ColorChoice::Always => Style::Colour,
            ColorChoice::Auto => Style::of_stdout(),
            ColorChoice::Never => Style::Plain,
        }
    }
}
