//! Man pages and shell completions of a program, from its command line. The examples
//! `jit-agent-pages`, `jit-controller-pages` and `jitctl-pages` include this file: `cargo xtask pages`
//! runs them.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use roff::{Roff, roman};

/// The shells that get completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];

/// Writes `man/NAME.SECTION` for the program and each of its commands, and `completions/` for each
/// shell, below `directory`. `section`: 1 for everybody's commands, 8 for the administrator's.
pub(crate) fn write(command: Command, section: &str, directory: &Path) -> io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let name = command.get_name().to_owned();
    for shell in SHELLS {
        let file = clap_complete::generate_to(shell, &mut command.clone(), &name, &completions)?;
        if shell == Shell::Bash {
            mend(&file, &name)?;
        }
    }
    // A page for each `help` of each command would say nothing.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    pages(&command, &command, section, &man)
}

/// In bash a program with a hyphen in its name completes nothing after its first command: its name is
/// spelled in two ways (<https://github.com/clap-rs/clap/issues/6421>).
fn mend(file: &Path, name: &str) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    fs::write(file, text.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__")))
}

/// The pages of a command and of those below it. `root`: the program.
fn pages(command: &Command, root: &Command, section: &str, man: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        pages(below, root, section, man)?;
    }
    let (name, title) = (root.get_name(), display_name(command));
    let version = root.get_version().unwrap_or_default();
    let page = Man::new(command.clone())
        .title(title.to_uppercase())
        .section(section)
        .source(format!("{name} {version}"))
        .manual("jit-agent");
    let mut out = fs::File::create(man.join(page.get_filename()))?;
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    if command.get_arguments().any(|one| !one.is_hide_set()) {
        page.render_options_section(&mut out)?;
    }
    if command.has_subcommands() {
        page.render_subcommands_section(&mut out)?;
    }
    last_sections(command, root, section).to_writer(&mut out)?;
    out.flush()
}

/// Examples and exit codes as they stand in the help, with their columns; and the other pages.
fn last_sections(command: &Command, root: &Command, section: &str) -> Roff {
    let mut roff = Roff::default();
    if let Some(text) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in text.to_string().lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    let others = root.get_subcommands().filter(|one| !one.is_hide_set()).map(display_name);
    let own = display_name(command);
    let names = std::iter::once(root.get_name().to_owned()).chain(others);
    let seen: Vec<_> =
        names.filter(|name| *name != own).map(|name| format!("{name}({section})")).collect();
    roff.control("SH", ["SEE ALSO"]).text([roman(seen.join(", "))]);
    roff
}

/// `jit-agent-audit-show`.
fn display_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}
